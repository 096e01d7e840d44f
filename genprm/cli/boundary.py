"""Where errors become messages, and signals become an orderly end."""

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
"""Exit code: the work could not be done, or not all of it."""
USAGE = 2
"""Exit code: what was asked for makes no sense."""
INTERRUPTED = 130
"""Exit code: Ctrl-C."""
TERMINATED = 143
"""Exit code: SIGTERM."""


class UsageError(Exception):
    """What was asked for makes no sense; the message says what would."""


def set_debug(debug: bool) -> None:
    """Chooses between messages for users, and tracebacks and logs."""
    root = logging.getLogger("genprm")
    root.setLevel(logging.DEBUG if debug else logging.NOTSET)
    if debug:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(EscapedFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logging.basicConfig(handlers=[handler])


@contextmanager
def friendly() -> Generator[None]:
    """Turns every error that a user can meet into one message and an exit code; with `--debug`, tracebacks stay.

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
            stderr().print("This is unexpected. `genprm --debug ...` shows where it comes from.")
            raise typer.Exit(FAILED) from None
        stderr().print("[bold red]Error:[/] ", end="")
        stderr().print(str(error), markup=False)
        raise typer.Exit(kind) from None


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end. The first Ctrl-C or SIGTERM cancels it, so that it puts its things in order.

    A second one ends the process at once, with the processes that it started; finished rows are on the disk by then.

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
    """Ends this process and those it started, without waiting for anything."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    for child in _children(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    os._exit(code)


def _children(process: int) -> list[int]:
    """Processes started by one, and by these, from the last to the first."""
    found: list[int] = []
    for threads in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, threads.read_text().split()):
                found += [*_children(child), child]
    return found


def _kind(error: Exception) -> int | None:
    """The exit code of an error that has a message for users; None for a bug."""
    from genprm.data.inputs import InputError
    from genprm.fields import ConfigError
    from genprm.runs.folder import RunError

    if isinstance(error, (UsageError, ConfigError, InputError, RunError)):
        return USAGE
    # Every boundary of the project has an exception class of its own, whose messages are for users.
    return FAILED if type(error).__module__.partition(".")[0] == "genprm" else None
