"""Pools: problems with several stored solutions each, among which a reward or a vote chooses.

A pool is a JSONL file with one problem a line, in the format of Qwen2.5-Math's evaluation: `question`, `code` (the
solutions), `pred` (their answers), `score` (whether each answer is right) and optionally `pred_score` (a reward model's
score of each).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from genprm.data.inputs import BadRow, Record, read_records


@dataclass(frozen=True, slots=True)
class PoolItem:
    """One problem and its solutions."""

    id: str
    problem: str
    solutions: tuple[str, ...]
    answers: tuple[str | None, ...]
    """None where the pool has no answer, or a blank one: it is never picked."""
    correct: tuple[bool, ...]
    rewards: tuple[float, ...] | None
    """Real numbers, higher is better; None when the pool has none."""


def read_pool(files: Sequence[str | Path], *, limit: int | None = None) -> Iterator[PoolItem | BadRow]:
    """Reads a pool.

    Raises:
        InputError: when a file cannot be read at all.
    """
    for number, record in enumerate(read_records(files)):
        if limit is not None and number >= limit:
            return
        try:
            yield _item(record)
        except ValueError as error:
            yield BadRow(record.file, record.line, str(error))


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
    return PoolItem(
        str(value.get("idx", value.get("id", record.line))),
        problem,
        tuple(str(solution) for solution in solutions),
        tuple(None if answer is None else str(answer).strip() or None for answer in answers),
        tuple(bool(score) for score in correct),
        None if rewards is None else tuple(_number(reward) for reward in _list(value, "pred_score", "rewards")),
    )


def _list(value: dict[str, object], *names: str) -> list[object]:
    found = next((value[name] for name in names if name in value), None)
    if not isinstance(found, list):
        raise ValueError(f'"{names[0]}" must be a list, not {found!r:.80}')
    return cast("list[object]", found)


def _number(value: object) -> float:
    # Outcome rewards are stored as lists of one.
    if isinstance(value, list):
        inner = cast("list[object]", value)
        value = inner[0] if len(inner) == 1 else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"a reward must be a number, not {value!r:.80}")
    return float(value)
