"""Reading solutions to judge, from any file that `genprm.data.records` reads.

An invalid row becomes a `BadRow` with its file, line and reason, and reading continues.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar, cast

from genprm.data.records import STDIN, InputError, Record, count_records, read_records
from genprm.data.shapes import label_of, problem_of, unified
from genprm.data.steps import split_steps
from genprm.data.thoughts import THINK_END, UNCLOSED, cut_thoughts

__all__ = [
    "STDIN",
    "BadRow",
    "InputError",
    "InputRow",
    "Record",
    "count_rows",
    "distinct",
    "parse_row",
    "read_records",
    "read_rows",
    "take",
]

_QUOTED = 80
"""Maximum length of a value quoted in an error message, in characters."""


@dataclass(frozen=True, slots=True)
class InputRow:
    """One solution to judge."""

    key: str
    """Hash of the content; equal rows have the same key."""
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
    """Text before the last `</think>` of a `solution`, from a reasoning model; never judged."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """An invalid input row."""

    file: str
    line: int
    reason: str
    duplicate: bool = False
    """It repeats an earlier row: counted and named, but not a failure."""


def read_rows(
    files: Sequence[str | Path], *, limit: int | None = None, sample: int | None = None, seed: int = 0
) -> Iterator[InputRow | BadRow]:
    """Streams the rows of several files, one after the other.

    Args:
        files: see `genprm.data.records.read_records`; ProcessBench, PRM800K and TRL's formats are read as they are.
        limit: maximum number of rows, bad ones included; None reads all.
        sample: see `take`.
        seed: seed of the sample.

    Yields:
        One `InputRow` or `BadRow` per input row, in order. Blank lines are skipped.

    Raises:
        InputError: when a file cannot be read at all, or is a pool with several solutions per problem.
    """
    return take(distinct(map(parse_row, read_records(files))), limit=limit, sample=sample, seed=seed)


class Keyed(Protocol):
    """A row with the hash of its content."""

    @property
    def key(self) -> str:
        """The hash."""
        ...

    @property
    def file(self) -> str:
        """Its file."""
        ...

    @property
    def line(self) -> int:
        """1-based line or element of the file."""
        ...


RowT = TypeVar("RowT", bound=Keyed)
AnyT = TypeVar("AnyT")


def distinct(rows: Iterable[RowT | BadRow]) -> Iterator[RowT | BadRow]:
    """Replaces every repeated row by a `BadRow` marked as a duplicate, which names the first one."""
    seen: dict[str, tuple[str, int]] = {}
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        if row.key in seen:
            yield BadRow(row.file, row.line, "the same as {}, line {}".format(*seen[row.key]), duplicate=True)
        else:
            seen[row.key] = (row.file, row.line)
            yield row


def take(rows: Iterable[AnyT], *, limit: int | None = None, sample: int | None = None, seed: int = 0) -> Iterator[AnyT]:
    """The first rows, or a random sample of all, in their order.

    Args:
        rows: read no further than needed, unless there is a sample.
        limit: maximum number of rows.
        sample: this many rows, chosen at random before `limit` counts.
        seed: the same seed chooses the same rows of the same input.
    """
    if sample is not None:
        everything = list(rows)
        places = random.Random(f"sample {seed}").sample(range(len(everything)), min(sample, len(everything)))
        rows = (everything[place] for place in sorted(places))
    return islice(rows, limit)


def count_rows(files: Sequence[str | Path]) -> int | None:
    """Number of rows in these files, for a progress bar; None when one of them can be read only once.

    Raises:
        InputError: when a file cannot be read at all.
    """
    return count_records(files)


def parse_row(record: Record) -> InputRow | BadRow:
    """Checks one record and turns it into a row. A `solution` is split into steps; a trailing blank step is dropped."""
    if record.error is not None:
        return BadRow(record.file, record.line, record.error)
    try:
        return _row(record)
    except InputError:
        raise
    except ValueError as error:
        return BadRow(record.file, record.line, str(error))


def _row(record: Record) -> InputRow:
    if not isinstance(record.value, dict):
        raise ValueError(f"a row must be a JSON object, not {_quote(record.value)}")
    value = unified(cast("dict[str, object]", record.value), record.file)
    problem = problem_of(value)
    thoughts, steps = _steps(value)
    label = label_of(value.get("label"))
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
    """The thoughts before a `solution` (or None), and the steps."""
    given = value.get("steps")
    if given is None or isinstance(given, str):
        solution = given or value.get("solution")
        if not isinstance(solution, str):
            there = ", ".join(map(repr, value))
            raise ValueError(f'a row needs "steps" (a list of texts) or "solution" (a text); this one has {there:.200}')
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


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."
