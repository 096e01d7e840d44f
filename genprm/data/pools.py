"""Pools: problems with several stored solutions each, among which a reward or a vote chooses.

A pool is a JSONL file with one problem per line, in the format of Qwen2.5-Math's evaluation: `question`, `code` (the
solutions), `pred` (their answers), `score` (whether each answer is right) and optionally `pred_score` (a reward model's
score of each).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from genprm.data.inputs import BadRow, Record, distinct, read_records, take


@dataclass(frozen=True, slots=True)
class PoolItem:
    """One problem and its solutions."""

    id: str
    problem: str
    solutions: tuple[str, ...]
    answers: tuple[str | None, ...]
    """None for a missing or blank answer, which is never chosen."""
    correct: tuple[bool, ...]
    rewards: tuple[float, ...] | None
    """Real numbers, higher is better; None if the pool has no rewards."""
    key: str = ""
    """Hash of its content."""
    file: str = ""
    line: int = 0


def read_pool(
    files: Sequence[str | Path], *, limit: int | None = None, sample: int | None = None, seed: int = 0
) -> Iterator[PoolItem | BadRow]:
    """Reads a pool; the arguments are those of `genprm.data.inputs.read_rows`.

    Raises:
        InputError: when a file cannot be read at all.
    """
    return take(distinct(map(_parsed, read_records(files))), limit=limit, sample=sample, seed=seed)


def _parsed(record: Record) -> PoolItem | BadRow:
    try:
        return _item(record)
    except ValueError as error:
        return BadRow(record.file, record.line, str(error))


def _item(record: Record) -> PoolItem:
    if record.error is not None:
        raise ValueError(record.error)
    if not isinstance(record.value, dict):
        raise ValueError(f"a row must be a JSON object, not {record.value!r:.80}")
    value = cast("dict[str, object]", record.value)
    problem = value.get("question", value.get("problem"))
    if not isinstance(problem, str):
        raise ValueError(f'"question" must be a text, not {problem!r:.80}')
    solutions = _list(value, "code", "solutions")
    answers = _list(value, "pred", "answers")
    correct = _list(value, "score", "correct")
    if not solutions or not len(solutions) == len(answers) == len(correct):
        raise ValueError(
            f"a problem needs as many solutions as answers and scores, not {len(solutions)}, {len(answers)} and "
            f"{len(correct)}"
        )
    rewards = value.get("pred_score", value.get("rewards"))
    name = value.get("idx", value.get("id"))
    content = json.dumps([problem, name, solutions, answers])
    return PoolItem(
        str(record.line if name is None else name),
        problem,
        tuple(str(solution) for solution in solutions),
        tuple(None if answer is None else str(answer).strip() or None for answer in answers),
        tuple(bool(score) for score in correct),
        None if rewards is None else tuple(_number(reward) for reward in _list(value, "pred_score", "rewards")),
        hashlib.sha256(content.encode()).hexdigest()[:16],
        record.file,
        record.line,
    )


def _list(value: dict[str, object], *names: str) -> list[object]:
    found = next((value[name] for name in names if name in value), None)
    if not isinstance(found, list):
        there = "" if found is not None else f"; this row has {', '.join(map(repr, value)):.200}"
        raise ValueError(f'"{names[0]}" must be a list, not {found!r:.80}{there}')
    return cast("list[object]", found)


def _number(value: object) -> float:
    # Outcome rewards are stored as lists of one.
    if isinstance(value, list):
        inner = cast("list[object]", value)
        value = inner[0] if len(inner) == 1 else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"a reward must be a number, not {value!r:.80}")
    return float(value)
