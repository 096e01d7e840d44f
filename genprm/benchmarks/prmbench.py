"""PRMBench (Song et al., arXiv 2501.03124): is every single step judged correctly?

A row is a solution with one kind of injected error, and the numbers of the steps it makes wrong. Over all steps,
"right" is the positive class; PRMScore is the mean of F1 and of F1 with the classes swapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from genprm.data.inputs import BadRow, InputRow, Record, distinct, parse_row, read_records, take
from genprm.runs.rows import VerifyRow
from genprm.types import DEFAULT_THRESHOLD


@dataclass(frozen=True, slots=True)
class PRMBenchItem:
    """One row of the benchmark."""

    row: InputRow
    classification: str
    """The kind of error."""
    error_steps: frozenset[int]
    """0-based. (The file counts from 1.)"""

    @property
    def key(self) -> str:
        """The key of its row."""
        return self.row.key

    @property
    def file(self) -> str:
        """Its file."""
        return self.row.file

    @property
    def line(self) -> int:
        """1-based line of the file."""
        return self.row.line


def read_prmbench(
    files: Sequence[str | Path], *, limit: int | None = None, sample: int | None = None, seed: int = 0
) -> Iterator[PRMBenchItem | BadRow]:
    """Reads PRMBench's file in its published form.

    Args:
        files: JSONL with `modified_question`, `modified_process`, `error_steps` and `classification`.
        limit: maximum number of rows.
        sample: see `genprm.data.inputs.take`.
        seed: seed of the sample.

    Raises:
        InputError: when a file cannot be read at all.
    """
    return take(distinct(map(_item, read_records(files))), limit=limit, sample=sample, seed=seed)


def _item(record: Record) -> PRMBenchItem | BadRow:
    if record.error is not None or not isinstance(record.value, dict):
        return BadRow(
            record.file, record.line, record.error or f"a row must be a JSON object, not {record.value!r:.80}"
        )
    value = cast("dict[str, object]", record.value)
    steps, errors, kind = value.get("modified_process"), value.get("error_steps"), value.get("classification")
    if not isinstance(steps, list) or not isinstance(errors, list) or not isinstance(kind, str):
        return BadRow(
            record.file,
            record.line,
            'a PRMBench row needs "modified_question", "modified_process", "error_steps" and "classification"',
        )
    numbers = cast("list[object]", errors)
    if not all(type(number) is int and number >= 1 for number in numbers):
        return BadRow(record.file, record.line, f'"error_steps" must be a list of numbers from 1, not {errors!r:.80}')
    # Some published rows name steps beyond the solution's end; those are ignored.
    length = len(cast("list[object]", steps))
    wrong = frozenset(number for number in cast("list[int]", numbers) if number <= length)
    plain: dict[str, object] = {
        "problem": value.get("modified_question"),
        "steps": steps,
        "id": value.get("idx"),
        "label": min(wrong) - 1 if wrong else -1,
    }
    row = parse_row(replace(record, value=plain))
    if isinstance(row, BadRow):
        return row
    # Reading drops a blank last step, and with it an error marked there.
    kept = frozenset(number - 1 for number in wrong if number <= len(row.steps))
    # The file has the same solution under several kinds of error.
    marks = hashlib.sha256(f"{row.key} {kind} {sorted(kept)}".encode()).hexdigest()[:16]
    return PRMBenchItem(replace(row, key=marks), kind, kept)


class PRMBenchClass(BaseModel):
    """The counts and scores of one kind of error, or of all. Scores are fractions in [0, 1]."""

    name: str
    rows: int
    steps: int
    missing: int
    """Steps without a score, counted as misjudged."""
    f1: float | None
    """With right steps as the positive class."""
    f1_negative: float | None
    """With wrong steps as the positive class."""
    prm_score: float | None
    """Mean of the two. None when the class has only right steps."""
    accuracy: float


class PRMBenchMetrics(BaseModel):
    """PRMBench's table."""

    total: PRMBenchClass
    """Over all steps of all rows."""
    classes: list[PRMBenchClass]
    outcomes: dict[str, list[int]]
    """Key of a row -> its counts: right steps judged right and wrong, wrong steps judged wrong and right."""


def evaluate(items: Sequence[PRMBenchItem], rows: Mapping[str, VerifyRow]) -> PRMBenchMetrics:
    """Computes the table. A step is judged right when its score is above the run's threshold.

    Args:
        items: the rows of the benchmark.
        rows: the run's rows by key; every step of a missing row counts as misjudged.

    Raises:
        ValueError: there are no rows.
    """
    if not items:
        raise ValueError("there are no PRMBench rows to compare with")
    outcomes = {item.row.key: _outcome(item, rows.get(item.row.key)) for item in items}
    kinds = sorted({item.classification for item in items})
    return PRMBenchMetrics(
        total=_class("total", items, outcomes, rows),
        classes=[
            _class(kind, [item for item in items if item.classification == kind], outcomes, rows) for kind in kinds
        ],
        outcomes=outcomes,
    )


def prm_score(counts: Sequence[int]) -> float | None:
    """PRMScore from the counts: right steps judged right and wrong, wrong steps judged wrong and right."""
    first, second = _f1s(counts)
    return None if first is None or second is None else (first + second) / 2


def _outcome(item: PRMBenchItem, row: VerifyRow | None) -> list[int]:
    counts = [0, 0, 0, 0]
    threshold = DEFAULT_THRESHOLD if row is None else row.threshold
    for index in range(len(item.row.steps)):
        score = None if row is None else row.scores[index]
        wrong = index in item.error_steps
        hit = score is not None and (score > threshold) is not wrong
        counts[2 * wrong + (not hit)] += 1
    return counts


def _class(
    name: str, items: Sequence[PRMBenchItem], outcomes: Mapping[str, list[int]], rows: Mapping[str, VerifyRow]
) -> PRMBenchClass:
    counts = [sum(column) for column in zip(*(outcomes[item.row.key] for item in items), strict=True)]
    f1, negative = _f1s(counts)
    steps = sum(counts)
    missing = sum(
        len(item.row.steps) if (row := rows.get(item.row.key)) is None else row.scores.count(None) for item in items
    )
    return PRMBenchClass(
        name=name,
        rows=len(items),
        steps=steps,
        missing=missing,
        f1=f1,
        f1_negative=negative,
        prm_score=prm_score(counts),
        accuracy=(counts[0] + counts[2]) / steps,
    )


def _f1s(counts: Sequence[int]) -> tuple[float | None, float | None]:
    right_hit, right_miss, wrong_hit, wrong_miss = counts
    return (
        _f1(right_hit, right_miss, wrong_miss),
        _f1(wrong_hit, wrong_miss, right_miss) if wrong_hit + wrong_miss else None,
    )


def _f1(hits: int, missed: int, false: int) -> float | None:
    total = 2 * hits + missed + false
    return 2 * hits / total if total else None
