"""Where errors become messages, and signals become an orderly end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

FAILED = 1
"""Exit code: the work could not be done, or not all of it."""
USAGE = 2
"""Exit code: what was asked for makes no sense."""
INTERRUPTED = 130
"""Exit code: Ctrl-C."""
TERMINATED = 143
"""Exit code: SIGTERM."""
_FILE_WIDTH = 160


@cache
def stdout() -> Console:
    """Where results go."""
    return _console(sys.stdout.isatty(), stderr=False)


@cache
def stderr() -> Console:
    """Where progress and messages go."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(terminal: bool, *, stderr: bool) -> Console:
    from rich.console import Console

    # A file has no width; the 80 columns that would be taken for it cut tables short.
    width = None if terminal or "COLUMNS" in os.environ else _FILE_WIDTH
    return Console(stderr=stderr, highlight=False, width=width)


class UsageError(Exception):
    """What was asked for makes no sense; the message says what would."""


def set_debug(debug: bool) -> None:
    """Chooses between messages for users, and tracebacks and logs."""
    root = logging.getLogger("genprm")
    root.setLevel(logging.DEBUG if debug else logging.NOTSET)
    if debug:
        logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")


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
    """Runs a coroutine to its end. Ctrl-C and SIGTERM cancel it, so that it can put its things in order.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
        typer.Exit: with code 143, on SIGTERM.
    """
    import asyncio

    terminated = False

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, terminate)
        try:
            return await main
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if terminated:
            raise typer.Exit(TERMINATED) from None
        raise


def _kind(error: Exception) -> int | None:
    """The exit code of an error that has a message for users; None for a bug."""
    from genprm.data.inputs import InputError
    from genprm.fields import ConfigError
    from genprm.runs.folder import RunError

    if isinstance(error, (UsageError, ConfigError, InputError, RunError)):
        return USAGE
    # Every boundary of the project has an exception class of its own, whose messages are for users.
    return FAILED if type(error).__module__.partition(".")[0] == "genprm" else None
