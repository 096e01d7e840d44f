"""Turns errors into messages and exit codes, and signals into an orderly shutdown."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from genprm.cli.terminal import EscapedFormatter, stderr, stdout

__all__ = ["FAILED", "INTERRUPTED", "TERMINATED", "USAGE", "UsageError", "friendly", "run_async", "stderr", "stdout"]

T = TypeVar("T")

FAILED = 1
"""Exit code: all or part of the work failed."""
USAGE = 2
"""Exit code: wrong usage."""
INTERRUPTED = 130
"""Exit code: Ctrl-C."""
TERMINATED = 143
"""Exit code: SIGTERM."""


class UsageError(Exception):
    """Wrong usage; the message says what to do instead."""


def set_debug(debug: bool) -> None:
    """Switches between short messages, and tracebacks with logs."""
    root = logging.getLogger("genprm")
    root.setLevel(logging.DEBUG if debug else logging.NOTSET)
    if debug:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(EscapedFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logging.basicConfig(handlers=[handler])


@contextmanager
def friendly() -> Generator[None]:
    """Turns every expected error into one message and an exit code; `--debug` keeps tracebacks.

    Raises:
        typer.Exit: with the exit code.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if logging.getLogger("genprm").level == logging.DEBUG:
            raise
        kind = _kind(error)
        if kind is None:
            stderr().print(f"[bold red]Error:[/] {type(error).__name__}: ", end="")
            stderr().print(str(error), markup=False)
            stderr().print("This is a bug. `genprm --debug ...` shows the traceback.")
            raise typer.Exit(FAILED) from None
        stderr().print("[bold red]Error:[/] ", end="")
        stderr().print(str(error), markup=False)
        raise typer.Exit(kind) from None


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end. The first Ctrl-C or SIGTERM cancels it, so that it can clean up.

    A second one ends this process and its children at once; finished rows are on disk by then.

    Raises:
        typer.Exit: with code 130 on Ctrl-C, 143 on SIGTERM.
    """
    import asyncio

    stopped: int | None = None

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None

        def stop(code: int) -> None:
            nonlocal stopped
            if stopped is not None:
                end_now(code)
            stopped = code
            task.cancel()
            if code == INTERRUPTED:
                stderr().print("\nStopping; what is finished is kept. Ctrl-C again stops at once.")

        loop = asyncio.get_running_loop()
        for number, code in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)):
            loop.add_signal_handler(number, stop, code)
        try:
            return await main
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if stopped is not None:
            raise typer.Exit(stopped) from None
        raise


def end_now(code: int) -> NoReturn:
    """Kills this process and its descendants, without waiting."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    for child in _children(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    os._exit(code)


def _children(process: int) -> list[int]:
    """All descendants of a process, the deepest first."""
    found: list[int] = []
    for threads in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, threads.read_text().split()):
                found += [*_children(child), child]
    return found


def _kind(error: Exception) -> int | None:
    """The exit code of an expected error; None for a bug."""
    from genprm.data.inputs import InputError
    from genprm.fields import ConfigError
    from genprm.runs.folder import RunError

    if isinstance(error, (UsageError, ConfigError, InputError, RunError)):
        return USAGE
    # Each boundary of the project has its own exception class, with messages for users.
    return FAILED if type(error).__module__.partition(".")[0] == "genprm" else None
