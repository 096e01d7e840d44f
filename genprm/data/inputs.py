"""Reading solutions to judge: JSONL line by line, or a JSON array, from files or from standard input.

An invalid row becomes a `BadRow` with its file, line and reason, and reading continues.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from genprm.data.steps import split_steps
from genprm.data.thoughts import THINK_END, UNCLOSED, cut_thoughts

STDIN = "-"
"""The file name that stands for standard input."""

_QUOTED = 80
"""Maximum length of a value quoted in an error message, in characters."""


class InputError(ValueError):
    """A file that cannot be read at all: missing, a folder, or a broken JSON array."""


@dataclass(frozen=True, slots=True)
class InputRow:
    """One solution to judge."""

    key: str
    """Hash of everything below `line`; equal rows get `-2`, `-3` ... appended, in input order."""
    file: str
    line: int
    """1-based line of a JSONL file, or 1-based element of a JSON array."""
    problem: str
    steps: tuple[str, ...]
    id: str | None = None
    answer: str | None = None
    label: int | None = None
    """0-based index of the first wrong step, -1 for none; None when unknown."""
    tests: str | None = None
    """Python that raises when the solution's code is wrong."""
    thoughts: str | None = None
    """What a reasoning model thought before the `solution`, which is cut at its last `</think>`: never judged."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """An invalid input row."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON value of an input file, or the reason why it cannot be read."""

    file: str
    line: int
    value: object
    error: str | None = None


def read_rows(files: Sequence[str | Path], *, limit: int | None = None) -> Iterator[InputRow | BadRow]:
    """Streams the rows of several files, one after the other.

    Args:
        files: JSONL files or JSON arrays (ProcessBench as it is); `-` is standard input.
        limit: maximum number of rows, bad ones included; None reads all.

    Yields:
        One `InputRow` or `BadRow` an input row, in order. Blank lines are skipped.

    Raises:
        InputError: when a file cannot be read at all.
    """
    seen: Counter[str] = Counter()
    for number, record in enumerate(read_records(files)):
        if limit is not None and number >= limit:
            return
        row = parse_row(record)
        if isinstance(row, InputRow):
            seen[row.key] += 1
            if (count := seen[row.key]) > 1:
                row = replace(row, key=f"{row.key}-{count}")
        yield row


def count_rows(files: Sequence[str | Path]) -> int | None:
    """Number of rows in these files, for a progress bar; None when one of them is standard input.

    Raises:
        InputError: when a file cannot be read at all.
    """
    if STDIN in map(str, files):
        return None
    total = 0
    for file in files:
        with _open(file) as stream:
            for _, item in _items(str(file), stream):
                total += len(item) if isinstance(item, list) else 1
    return total


def read_records(files: Iterable[str | Path]) -> Iterator[Record]:
    """Streams the JSON values of several files, without checking them. See `read_rows`."""
    for file in files:
        name = "<stdin>" if str(file) == STDIN else str(file)
        with _open(file) as stream:
            for number, item in _items(name, stream):
                if isinstance(item, bytes):
                    yield _parse_line(name, number, item)
                else:
                    for element, value in enumerate(item, start=1):
                        yield Record(name, element, value)


def parse_row(record: Record) -> InputRow | BadRow:
    """Checks one record and turns it into a row. A `solution` is split into steps; a trailing blank step is dropped."""
    if record.error is not None:
        return BadRow(record.file, record.line, record.error)
    try:
        return _row(record)
    except ValueError as error:
        return BadRow(record.file, record.line, str(error))


def _row(record: Record) -> InputRow:
    if not isinstance(record.value, dict):
        raise ValueError(f"a row must be a JSON object, not {_quote(record.value)}")
    value = cast("dict[str, object]", record.value)
    problem = value.get("problem", value.get("question"))
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError(f'"problem" must be a text that is not blank, not {_quote(problem)}')
    thoughts, steps = _steps(value)
    label = value.get("label")
    if label is not None and (type(label) is not int or not -1 <= label < len(steps)):
        raise ValueError(
            f'"label" must be -1 (no wrong step) or the 0-based index of one of {len(steps)} steps, not {_quote(label)}'
        )
    identity = _text_or_none(value, "id")
    answer = _text_or_none(value, "answer")
    tests = _tests(value)
    content = json.dumps([problem, steps, identity, answer, label, *([tests] if tests else [])], ensure_ascii=False)
    try:
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
    except UnicodeEncodeError as error:
        raise ValueError(f"a text contains half of a surrogate pair, which is not a character: {error}") from error
    return InputRow(key, record.file, record.line, problem, steps, identity, answer, label, tests, thoughts)


def _steps(value: dict[str, object]) -> tuple[str | None, tuple[str, ...]]:
    """The thoughts before a `solution`, where there are any, and the steps."""
    given = value.get("steps")
    if given is None:
        solution = value.get("solution")
        if not isinstance(solution, str):
            raise ValueError('a row needs "steps" (a list of texts) or "solution" (a text)')
        part = cut_thoughts(solution)
        if part.thinking:
            raise ValueError(f'"solution" is unfinished: {UNCLOSED}')
        if not (steps := tuple(split_steps(part.solution))):
            raise ValueError('"solution" is blank' + (f" after {THINK_END}" if part.thoughts else ""))
        return part.thoughts, steps
    if not isinstance(given, list) or not given:
        raise ValueError(f'"steps" must be a list with at least one text, not {_quote(given)}')
    steps = cast("list[object]", given)
    if len(steps) > 1 and isinstance(last := steps[-1], str) and not last.strip():
        steps = steps[:-1]
    for index, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise ValueError(f"step {index} must be a text that is not blank, not {_quote(step)}")
    return None, tuple(cast("list[str]", steps))


def _tests(value: dict[str, object]) -> str | None:
    found = value.get("tests")
    if isinstance(found, list):
        lines = cast("list[object]", found)
        found = "\n".join(line for line in lines if isinstance(line, str)) if lines else None
        if found is not None and not all(isinstance(line, str) for line in lines):
            raise ValueError(f'"tests" must be Python, as a text or a list of texts, not {_quote(lines)}')
    if found is not None and (not isinstance(found, str) or not found.strip()):
        raise ValueError(f'"tests" must be Python, as a text or a list of texts, not {_quote(found)}')
    return found


def _text_or_none(value: dict[str, object], name: str) -> str | None:
    found = value.get(name)
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return json.dumps(found)
    raise ValueError(f'"{name}" must be a text or a number, not {_quote(found)}')


def _parse_line(file: str, number: int, line: bytes) -> Record:
    try:
        # utf-8-sig: accept a byte order mark before the first line.
        return Record(file, number, json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        return Record(file, number, None, error=f"not UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        start = line[:_QUOTED].decode("utf-8", errors="replace").strip()
        return Record(file, number, None, error=f"not JSON ({error}): {start!r}")


def _items(name: str, stream: BinaryIO) -> Iterator[tuple[int, bytes | list[object]]]:
    """The non-blank lines with their numbers; or the array, when the first line begins with `[`."""
    first = True
    for number, line in enumerate(stream, start=1):
        if line.isspace():
            continue
        if first and line.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            try:
                yield number, json.loads((line + stream.read()).decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{name} starts with '[' but is not a JSON array: {error}") from error
            return
        first = False
        yield number, line


@contextmanager
def _open(file: str | Path) -> Generator[BinaryIO]:
    if str(file) == STDIN:
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below; only the opening may raise InputError
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}") from error
    with stream:
        yield stream


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."
