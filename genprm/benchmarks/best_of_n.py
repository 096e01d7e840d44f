"""Best-of-n on a pool: problems with several solutions each, of which a reward picks one.

A pool is a JSONL file with one problem a line, in the form that the evaluation of Qwen2.5-Math writes: `question`,
`code` (the solutions), `pred` (their answers), `score` (whether each answer is right) and, where there is one,
`pred_score` (a reward model's score of each).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from genprm.benchmarks.statistics import mean_interval
from genprm.inputs import BadRow, Record, read_records
from genprm.types import sigmoid


@dataclass(frozen=True, slots=True)
class PoolItem:
    """One problem and its solutions."""

    id: str
    problem: str
    solutions: tuple[str, ...]
    answers: tuple[str, ...]
    correct: tuple[bool, ...]
    rewards: tuple[float, ...] | None
    """Any real numbers, higher is better; None where the pool has none."""


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
        tuple(str(answer).strip() for answer in answers),
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


def pick_best(answers: Sequence[str], rewards: Sequence[float]) -> int:
    """The solution with the highest reward; of several, the first."""
    del answers
    return max(range(len(rewards)), key=lambda index: (rewards[index], -index))


def pick_majority(answers: Sequence[str], rewards: Sequence[float] | None = None) -> int:
    """A solution with the most frequent answer; of several, the one met first."""
    del rewards
    return _heaviest(answers, [1.0] * len(answers))


def pick_weighted(answers: Sequence[str], rewards: Sequence[float]) -> int:
    """A solution with the answer whose rewards, through a sigmoid, add up to most."""
    return _heaviest(answers, [sigmoid(reward) for reward in rewards])


def _heaviest(answers: Sequence[str], weights: Sequence[float]) -> int:
    totals: dict[str, list[float]] = {}
    for answer, weight in zip(answers, weights, strict=True):
        totals.setdefault(answer, []).append(weight)
    best = max(totals, key=lambda answer: math.fsum(totals[answer]))
    return answers.index(best)


class MethodMetrics(BaseModel):
    """How often a way to choose among the first n solutions is right."""

    method: str
    n: int
    accuracy: float
    low: float
    """95 % bootstrap interval over the problems."""
    high: float
    outcomes: list[float]
    """One a problem, in the order of the pool: 1 for right, 0 for wrong, a fraction for pass@1."""


class BestOfNMetrics(BaseModel):
    """The table of a pool."""

    ids: list[str]
    methods: list[MethodMetrics]
    unscored: int = 0
    """Solutions without a reward, ranked below all others."""


def evaluate(
    items: Sequence[PoolItem], rewards: Sequence[Sequence[float | None]] | None = None, *, resamples: int = 10_000
) -> BestOfNMetrics:
    """Computes the table for n = 1, 2, 4 ... up to the smallest number of solutions.

    Args:
        items: the pool.
        rewards: [problem][solution], instead of the stored ones; None where there is no reward, which ranks below all
            others and has no weight in a vote.
        resamples: of the bootstrap.

    Raises:
        ValueError: the pool is empty.
    """
    if not items:
        raise ValueError("the pool is empty")
    stored = [item.rewards for item in items]
    known = [list(row) for row in rewards] if rewards is not None else None
    if known is None and all(row is not None for row in stored):
        known = [list(row or ()) for row in stored]
    filled = None if known is None else [[-math.inf if value is None else value for value in row] for row in known]
    most = min(len(item.solutions) for item in items)
    sizes = sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most})
    methods: list[MethodMetrics] = []

    def add(method: str, n: int, outcomes: list[float]) -> None:
        interval = mean_interval(outcomes, resamples=resamples)
        accuracy = math.fsum(outcomes) / len(outcomes)
        methods.append(
            MethodMetrics(
                method=method, n=n, accuracy=accuracy, low=interval.low, high=interval.high, outcomes=outcomes
            )
        )

    add("pass@1", most, [sum(item.correct) / len(item.correct) for item in items])
    picks: list[tuple[str, Callable[[Sequence[str], Sequence[float]], int]]] = [("majority", pick_majority)]
    if filled is not None:
        picks += [("best-of-n", pick_best), ("weighted", pick_weighted)]
    for name, pick in picks:
        for n in sizes:
            outcomes: list[float] = []
            for number, item in enumerate(items):
                row = filled[number][:n] if filled is not None else []
                outcomes.append(float(item.correct[pick(item.answers[:n], row)]))
            add(name, n, outcomes)
    for n in sizes:
        add("pass@n", n, [float(any(item.correct[:n])) for item in items])
    unscored = sum(value is None for row in known or [] for value in row)
    return BestOfNMetrics(ids=[item.id for item in items], methods=methods, unscored=unscored)
