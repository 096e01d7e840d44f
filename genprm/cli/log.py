"""The log of a run: its messages, and everything that other libraries print."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from genprm.cli.terminal import EscapedFormatter, notes, stderr, stdout, verbosity

LOG = "run.log"
"""The file in a run's folder."""
LINE = "%(asctime)s %(name)s %(levelname)s %(message)s"
logger = logging.getLogger("genprm")


@contextmanager
def logged(path: Path) -> Generator[None]:
    """Appends the log of a block to a file.

    Standard output and error of this process and its children go there too, so that warnings, progress bars and banners
    of libraries do not mix with the lines of a command; genprm's own output still reaches the terminal. With `-v` and
    `--debug` everything stays on the terminal, and the file has only the log.

    Args:
        path: the file.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(EscapedFormatter(LINE))
    root, before = logging.getLogger(), logger.level
    with ExitStack() as stack:
        root.addHandler(handler)
        stack.callback(handler.close)
        stack.callback(root.removeHandler, handler)
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
            stack.callback(logger.setLevel, before)
        if not verbosity().logs:
            # vLLM's own log may be verbose in the file.
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
            stack.enter_context(_captured(path))
        yield


@contextmanager
def _captured(path: Path) -> Generator[None]:
    """Redirects the descriptors 1 and 2 to a file, except the commands' consoles."""
    if (_descriptor(sys.stdout), _descriptor(sys.stderr)) != (1, 2):
        yield  # a caller has replaced them
        return
    consoles = {1: (stdout(),), 2: (stderr(), notes())}
    with ExitStack() as stack:
        log = stack.enter_context(path.open("ab"))
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            stream.flush()
            kept = os.dup(number)
            shown = os.fdopen(kept, "w", buffering=1, encoding=stream.encoding, errors="backslashreplace")
            for one in consoles[number]:
                one.file = shown
                stack.callback(setattr, one, "file", stream)
            stack.callback(_restore, number, stream, shown)
            os.dup2(log.fileno(), number)
        yield


def _restore(number: int, stream: TextIO, shown: TextIO) -> None:
    stream.flush()
    shown.flush()
    os.dup2(shown.fileno(), number)
    shown.close()


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None
