"""Turns errors into messages and exit codes, and signals into an orderly shutdown."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from genprm.cli.terminal import EscapedFormatter, notes, stderr, stdout, verbosity
from genprm.extras import install_line

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "TERMINATED",
    "USAGE",
    "UsageError",
    "friendly",
    "notes",
    "run_async",
    "stderr",
    "stdout",
]

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


def set_output(*, debug: bool = False, verbose: bool = False, quiet: bool = False) -> None:
    """Chooses what is printed beside results and errors.

    Args:
        debug: tracebacks instead of messages, and all logs.
        verbose: what genprm and other libraries log.
        quiet: neither progress nor remarks.
    """
    verbosity().quiet = notes().quiet = quiet
    verbosity().logs = debug or verbose
    own = logging.getLogger("genprm")
    own.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.NOTSET)
    if debug or verbose:
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
    except BrokenPipeError:
        # The reader of a pipe has gone, as `head` does. What is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(FAILED) from None
    except Exception as error:
        if logging.getLogger("genprm").level == logging.DEBUG:
            raise
        code, message = explained(error)
        stderr().print("[bold red]Error:[/] ", end="")
        stderr().print(message, markup=False, soft_wrap=True)
        raise typer.Exit(code) from None


def explained(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and what is said about it."""
    kind = _kind(error)
    if kind is not None:
        return kind, str(error)
    if isinstance(error, OSError):
        # A full disk, a missing permission: of the machine, and not of this program.
        said = f"{error.strerror or error}" + (f": {str(error.filename)!r}" if error.filename else "")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            said += ". Make room, then run the same command again: finished rows are kept"
        return FAILED, said
    if isinstance(error, ModuleNotFoundError) and error.name:
        return FAILED, f"the Python package {error.name!r} is not installed: {install_line(error.name)}"
    if isinstance(error, MemoryError):
        return FAILED, "out of memory"
    return FAILED, (f"{type(error).__name__}: {error}\nThis is a bug. With `--debug` the command shows the traceback.")


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
                notes().print("\nStopping; what is finished is kept. Ctrl-C again stops at once.")

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
    for stream in (sys.stdout, sys.stderr, stdout().file, stderr().file):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
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
    from genprm.runs.folder import RunError, WriteError

    if isinstance(error, WriteError):
        return FAILED
    if isinstance(error, (UsageError, ConfigError, InputError, RunError)):
        return USAGE
    # Each boundary of the project has its own exception class, with messages for users.
    return FAILED if type(error).__module__.partition(".")[0] == "genprm" else None
