"""Escapes text from rows, files and models, so that it cannot control a terminal, a pipe or a log."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable, RenderableType

_FILE_WIDTH = 160
# Control characters except newline and tab; marks that reorder or hide text; lone surrogates, which cannot be
# encoded.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def escaped(text: str) -> str:
    r"""The text with control characters spelled out: `\x1b`, `\u202e`."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def console(stream: TextIO | None = None, *, stderr: bool = False) -> Console:
    """A console that escapes all text printed on it: tables, bars and lines.

    Args:
        stream: where it writes; standard output or standard error by default.
        stderr: write to standard error.
    """
    from rich.console import Console, RenderHook
    from rich.segment import Segment

    class Escaped:
        """Renders another renderable, with its text escaped."""

        def __init__(self, renderable: RenderableType) -> None:
            self.renderable = renderable

        def __rich_console__(self, made: Console, options: object) -> Iterable[Segment]:
            for segment in made.render(self.renderable, options):  # pyright: ignore[reportArgumentType]
                yield segment if segment.control else Segment(escaped(segment.text), segment.style)

    class Hook(RenderHook):
        """Wraps everything printed in `Escaped`."""

        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [cast("ConsoleRenderable", Escaped(one)) for one in renderables]

    out = stream or (sys.stderr if stderr else sys.stdout)
    # A file has no width; rich would assume 80 columns and cut tables.
    width = None if out.isatty() or "COLUMNS" in os.environ else _FILE_WIDTH
    made = Console(file=stream, stderr=stderr, highlight=False, emoji=False, width=width)
    made.push_render_hook(Hook())
    return made


@cache
def stdout() -> Console:
    """The console for results."""
    return console()


@cache
def stderr() -> Console:
    """Where errors go."""
    return console(stderr=True)


@cache
def notes() -> Console:
    """Where progress and remarks go, which `--quiet` leaves out; errors go to `stderr`."""
    return console(stderr=True)


@dataclass(slots=True)
class Verbosity:
    """How much is printed."""

    quiet: bool = False
    """Results and errors alone."""
    logs: bool = False
    """What libraries print and log stays on the terminal."""


@cache
def verbosity() -> Verbosity:
    """How much this process prints."""
    return Verbosity()


def counted(number: int, noun: str) -> str:
    """`1 solution`, `2,000 solutions`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class EscapedFormatter(logging.Formatter):
    """Log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats the record and escapes it."""
        return escaped(super().format(record))


def accept_any_text() -> None:
    """Makes standard output and error accept any text: characters missing in their encoding are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
