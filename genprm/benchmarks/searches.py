"""What searches reach: accuracy by n and by tokens, and how to split a budget of tokens between policy and PRM."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from genprm.benchmarks.best_of_n import Answered, BestOfNMetrics, evaluate_answered
from genprm.benchmarks.metrics import SessionMetrics
from genprm.benchmarks.statistics import mean_interval
from genprm.search.rows import CandidateRow, RefineRow, SearchRow
from genprm.search.run import Method
from genprm.search.voting import Aggregate, pick_best, pick_majority, powers_of_two, reward


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")


class CostPoint(_Model):
    """What the first n solutions of a problem cost, on average."""

    n: int
    policy: float
    """Tokens that the policy generated."""
    prm: float
    """Tokens that the PRM generated; beginnings that several solutions share are judged once."""


class Split(_Model):
    """One way to split a budget: so many solutions, each judged by so many votes."""

    n: int
    votes: int
    """0 takes the majority, without a PRM."""
    tokens: float
    """Generated for a problem, by policy and PRM."""
    accuracy: float
    low: float
    high: float


class Budget(_Model):
    """The best split of a budget, as far as this run can tell."""

    tokens: float
    best: Split
    held_out: float
    """Accuracy when the split is chosen on one half of the problems and tried on the other: without this, the best of
    many looks better than it is."""


class SearchMetrics(_Model):
    """What `metrics.json` of a search holds."""

    rows: int
    failed: int
    graded: int
    """Problems with a reference answer."""
    accuracy: float | None
    """Of the search's own choice, over the graded problems; no answer counts as wrong."""
    low: float | None
    high: float | None
    solutions: int
    unfinished: int
    """Solutions that ran out of tokens or steps; never an answer."""
    ungraded: int
    """Solutions whose comparison with the reference did not come to an end; they count as wrong."""
    tokens: dict[str, dict[str, int]]
    """`policy` and `prm`: prompt, of these cached, and generated."""
    judged_steps: int
    best_of_n: BestOfNMetrics | None
    costs: list[CostPoint] = []
    """For n = 1, 2, 4 ..., where solutions are independent."""
    budgets: list[Budget] = []
    splits: list[Split] = []
    session: SessionMetrics | None = None
    interrupted: bool = False


def evaluate_searches(
    rows: Sequence[SearchRow], method: Method, *, failed: int, width: int = 1, aggregate: Aggregate | None = None
) -> SearchMetrics:
    """The metrics of a run.

    Args:
        rows: in the order of the input.
        method: how solutions were looked for. Those of a beam depend on each other, so that only all of them together
            mean something; those of DVTS do within `width`.
        failed: problems that failed.
        width: of DVTS.
        aggregate: of the run's rewards, to compute those of fewer votes.
    """
    graded = [row for row in rows if any(one.correct is not None for one in row.candidates) or row.answer is not None]
    right = [float(row.correct is True) for row in graded]
    interval = mean_interval(right) if graded else None
    solutions = [one for row in rows for one in row.candidates]
    samples = method is Method.BEST_OF_N
    table, most = None, max((len(row.candidates) for row in graded), default=0)
    if graded and most:
        sizes = powers_of_two(most) if samples else [most]
        if method is Method.DVTS:
            sizes = [size for size in powers_of_two(most) if size >= width]
        table = evaluate_answered([_answered(row, most) for row in graded], sizes, samples=samples)
    cells = _cells(graded, aggregate) if samples else {}
    return SearchMetrics(
        rows=len(rows),
        failed=failed,
        graded=len(graded),
        accuracy=math.fsum(right) / len(right) if right else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        solutions=len(solutions),
        unfinished=sum(not one.finished for one in solutions),
        ungraded=sum(
            one.finished and one.answer is not None and one.correct is None
            for row in rows
            if row.answer is not None
            for one in row.candidates
        ),
        tokens=tokens_of(rows),
        judged_steps=sum(row.judged_steps for row in rows),
        best_of_n=table,
        costs=[_cost(rows, n) for n in powers_of_two(most)] if samples and most else [],
        splits=[cell.split for cell in cells.values()],
        budgets=_budgets(list(cells.values())),
    )


def tokens_of(rows: Sequence[SearchRow] | Sequence[RefineRow]) -> dict[str, dict[str, int]]:
    """What policy and PRM spent over all rows."""
    return {
        "policy": {
            "prompt": sum(row.policy.prompt for row in rows),
            "cached": sum(row.policy.cached for row in rows),
            "generated": sum(row.policy.generated for row in rows),
        },
        "prm": {
            "prompt": sum(row.prm.prompt for row in rows),
            "cached": sum(row.prm.cached for row in rows),
            "generated": sum(row.prm.generated for row in rows),
        },
    }


def _answered(row: SearchRow, size: int) -> Answered:
    # A search that came to fewer solutions than others had nothing more to say: as if they were unfinished.
    missing = size - len(row.candidates)
    return Answered(
        row.id or row.key,
        (*(one.answer for one in row.candidates), *[None] * missing),
        (*(one.correct is True for one in row.candidates), *[False] * missing),
        (*(one.reward for one in row.candidates), *[None] * missing)
        if any(one.reward is not None for one in row.candidates) or not row.candidates
        else None,
    )


def _cost(rows: Sequence[SearchRow], n: int) -> CostPoint:
    policy = sum(one.generated for row in rows for one in row.candidates[:n])
    prm = sum(_judging(row, n) for row in rows)
    return CostPoint(n=n, policy=policy / len(rows), prm=prm / len(rows))


def _judging(row: SearchRow, n: int, votes: int | None = None) -> float:
    """Tokens that judging the first n solutions cost, by so many votes: a beginning that several share counts once."""
    candidates = [one for one in row.candidates[:n] if one.finished]
    if not any(one.vote_tokens for one in row.candidates):
        return row.prm.generated * n / max(1, len(row.candidates))  # nobody knows which solution cost how much
    cost: dict[tuple[str, ...], int] = {}
    for one in candidates:
        for step in range(len(one.scores)):
            cost[tuple(one.steps[: step + 1])] = sum(chain[step] for chain in one.vote_tokens[:votes])
    return sum(cost.values())


@dataclass(frozen=True, slots=True)
class _Cell:
    split: Split
    outcomes: list[float]


def _cells(rows: Sequence[SearchRow], aggregate: Aggregate | None) -> dict[tuple[int, int], _Cell]:
    """Every split that the rows hold: the first solutions, judged by the first votes."""
    if not rows:
        return {}
    most = min(len(row.candidates) for row in rows)
    votes = min((len(one.votes) for row in rows for one in row.candidates if one.finished), default=0)
    out: dict[tuple[int, int], _Cell] = {}
    if aggregate is Aggregate.SOLUTION or most < 1 or not any(one.generated for row in rows for one in row.candidates):
        return out  # a pool whose solutions cost nothing here has nothing to say about budgets
    for count in [0, *(powers_of_two(votes) if votes else [])]:
        for n in powers_of_two(most):
            if n == 1 and count:
                continue  # there is nothing to choose
            out[n, count] = _cell(rows, n, count, aggregate or Aggregate.MIN)
    return out


def _cell(rows: Sequence[SearchRow], n: int, votes: int, how: Aggregate) -> _Cell:
    outcomes: list[float] = []
    tokens = 0.0
    for row in rows:
        candidates = row.candidates[:n]
        answers = [one.answer for one in candidates]
        if votes:
            picked = pick_best(answers, [_reward(one, votes, how) for one in candidates])
            tokens += _judging(row, n, votes)
        else:
            picked = pick_majority(answers)
        tokens += sum(one.generated for one in candidates)
        outcomes.append(0.0 if picked is None else float(candidates[picked].correct is True))
    interval = mean_interval(outcomes)
    split = Split(
        n=n,
        votes=votes,
        tokens=tokens / len(rows),
        accuracy=math.fsum(outcomes) / len(outcomes),
        low=interval.low,
        high=interval.high,
    )
    return _Cell(split, outcomes)


def _reward(one: CandidateRow, votes: int, how: Aggregate) -> float | None:
    """The reward that the first votes alone would have given."""
    steps = list(zip(*one.votes[:votes], strict=True))
    means: list[float | None] = []
    for step in steps:
        known = [score for score in step if score is not None]
        means.append(math.fsum(known) / len(known) if known else None)
    return reward(means, how)


def _budgets(cells: Sequence[_Cell]) -> list[Budget]:
    """The best split for each amount of tokens at which a better one than all cheaper ones comes up."""
    out: list[Budget] = []
    for cell in sorted(cells, key=lambda cell: (cell.split.tokens, -cell.split.accuracy)):
        if out and cell.split.accuracy <= out[-1].best.accuracy:
            continue
        affordable = [other for other in cells if other.split.tokens <= cell.split.tokens]
        out.append(Budget(tokens=cell.split.tokens, best=cell.split, held_out=_held_out(affordable)))
    return out


def _held_out(cells: Sequence[_Cell]) -> float:
    halves: list[Callable[[_Cell], list[float]]] = [lambda cell: cell.outcomes[::2], lambda cell: cell.outcomes[1::2]]
    total = 0.0
    for chosen_on, tried_on in (halves, halves[::-1]):
        best = max(cells, key=lambda cell: (sum(chosen_on(cell)), -cell.split.tokens))
        total += sum(tried_on(best))
    return total / len(cells[0].outcomes)


def flattened(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as one level: `{"policy": {"model": "x"}}` becomes `{"policy.model": "x"}`."""
    out: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= flattened(value, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            out[prefix + key] = value
    return out
