"""Best-of-n on a pool: how often the solution chosen by a reward or a vote is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from genprm.benchmarks.statistics import mean_interval
from genprm.data.pools import PoolItem
from genprm.search.voting import pass_at_k, pick_best, pick_majority, pick_weighted, powers_of_two


@dataclass(frozen=True, slots=True)
class Answered:
    """The solutions of one problem."""

    id: str
    answers: tuple[str | None, ...]
    """None for a solution without an answer, which is never chosen."""
    correct: tuple[bool, ...]
    rewards: tuple[float | None, ...] | None
    """Log-odds or other numbers, higher is better; None if the problem has no rewards."""
    copies: tuple[int, ...] = ()
    """Number of samples each solution represents in a vote; empty means one each."""
    places: tuple[int, ...] = ()
    """The smallest n whose search contains each solution; empty means 1, 2, 3 ..., as for independent samples."""

    def first(self, n: int) -> Answered:
        """The solutions of a search with this n."""
        places = self.places or tuple(range(1, len(self.answers) + 1))
        kept = [index for index, place in enumerate(places) if place <= n]
        return Answered(
            self.id,
            tuple(self.answers[index] for index in kept),
            tuple(self.correct[index] for index in kept),
            None if self.rewards is None else tuple(self.rewards[index] for index in kept),
            tuple(self.copies[index] for index in kept) if self.copies else (),
            tuple(places[index] for index in kept),
        )


class MethodMetrics(BaseModel):
    """Accuracy of one method of choosing among the solutions of a search with n samples."""

    method: str
    n: int
    accuracy: float
    low: float
    """95 % bootstrap interval over the problems."""
    high: float
    outcomes: list[float]
    """One value per problem, in the order of the pool: 1 right, 0 wrong, a fraction for pass@1."""
    solutions: float | None = None
    """Mean number of stored solutions per problem to choose from; a tree stores equal ones once."""


class BestOfNMetrics(BaseModel):
    """The table of a pool."""

    ids: list[str]
    methods: list[MethodMetrics]
    unscored: int = 0
    """Solutions with an answer but without a reward; they rank last."""


def evaluate(
    items: Sequence[PoolItem], rewards: Sequence[Sequence[float | None]] | None = None, *, resamples: int = 10_000
) -> BestOfNMetrics:
    """Computes the table of a pool for n = 1, 2, 4 ... up to the smallest number of solutions.

    Args:
        items: the pool.
        rewards: [problem][solution], instead of the stored ones. A solution whose reward is None ranks last and has no
            weight in a vote.
        resamples: bootstrap resamples.

    Raises:
        ValueError: the pool is empty.
    """
    if not items:
        raise ValueError("the pool is empty")
    most = min(len(item.solutions) for item in items)
    known = [item.rewards for item in items] if rewards is None else [tuple(row) for row in rewards]
    scored = all(row is not None for row in known)
    answered = [
        Answered(item.id, item.answers, item.correct, row if scored else None)
        for item, row in zip(items, known, strict=True)
    ]
    return evaluate_answered(answered, powers_of_two(most), resamples=resamples)


def evaluate_answered(
    items: Sequence[Answered], sizes: Sequence[int], *, samples: bool = True, resamples: int = 10_000
) -> BestOfNMetrics:
    """Computes the accuracy of each method of choosing among the first n solutions, with intervals over problems.

    Args:
        items: one per problem, at least one.
        sizes: the values of n, ascending.
        samples: whether the solutions are independent samples; otherwise pass@1 and pass@k are left out.
        resamples: bootstrap resamples.
    """
    methods: list[MethodMetrics] = []

    def add(method: str, n: int, outcomes: list[float], of: Sequence[Answered]) -> None:
        interval = mean_interval(outcomes, resamples=resamples)
        accuracy = math.fsum(outcomes) / len(outcomes)
        methods.append(
            MethodMetrics(
                method=method,
                n=n,
                accuracy=accuracy,
                low=interval.low,
                high=interval.high,
                outcomes=outcomes,
                solutions=sum(len(item.answers) for item in of) / len(of),
            )
        )

    if samples:
        add("pass@1", sizes[-1], [sum(item.correct) / len(item.correct) for item in items], items)
    picks: list[tuple[str, Callable[[Sequence[str | None], Sequence[float | None], Sequence[int] | None], int | None]]]
    picks = [("majority", pick_majority)]
    if all(item.rewards is not None for item in items):
        picks += [("best-of-n", pick_best), ("weighted", pick_weighted)]
    for name, pick in picks:
        for n in sizes:
            first = [item.first(n) for item in items]
            outcomes: list[float] = []
            for item in first:
                picked = pick(item.answers, item.rewards or (), item.copies or None)
                outcomes.append(0.0 if picked is None else float(item.correct[picked]))
            add(name, n, outcomes, first)
    for n in sizes:
        first = [item.first(n) for item in items]
        add("pass@n", n, [float(any(item.correct)) for item in first], first)
    if samples:
        for n in sizes:
            add("pass@k", n, [_pass_at_k(item.correct, n) for item in items], items)
    unscored = sum(
        reward is None and answer is not None
        for item in items
        if item.rewards is not None
        for answer, reward in zip(item.answers, item.rewards, strict=True)
    )
    return BestOfNMetrics(ids=[item.id for item in items], methods=methods, unscored=unscored)


def _pass_at_k(correct: Sequence[bool], k: int) -> float:
    return pass_at_k(len(correct), sum(correct), min(k, len(correct)))
