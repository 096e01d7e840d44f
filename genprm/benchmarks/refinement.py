"""What refinement does to answers, turn by turn: how many it mends, and how many it breaks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from genprm.benchmarks.best_of_n import BestOfNMetrics, MethodMetrics
from genprm.benchmarks.metrics import SessionMetrics
from genprm.benchmarks.statistics import mean_interval
from genprm.search.rows import RefineRow


class TurnMetrics(BaseModel):
    """The answers, had the loop ended after this turn."""

    turn: int
    """0 is the policy's first solution."""
    accuracy: float
    low: float
    high: float
    refined: int
    """Problems on which the policy was told to think again, for this turn."""
    accepted: int
    """Problems with a turn so far in which the PRM found nothing wrong."""
    accepted_wrong: int
    """Of these, those whose answer is wrong all the same."""
    fixed: int
    """Wrong at turn 0, right now."""
    broken: int
    """Right at turn 0, wrong now."""
    policy: float
    """Tokens generated for a problem so far, by the policy."""
    prm: float


class RefineMetrics(BaseModel):
    """What `metrics.json` of a refinement holds."""

    model_config = ConfigDict(extra="ignore")

    rows: int
    failed: int
    graded: int
    accuracy: float | None
    low: float | None
    high: float | None
    turns: list[TurnMetrics]
    tokens: dict[str, dict[str, int]]
    best_of_n: BestOfNMetrics | None = None
    """Accuracy after each turn in the form that runs are compared in; n is the turn."""
    session: SessionMetrics | None = None
    interrupted: bool = False


def evaluate_refinement(rows: Sequence[RefineRow], *, failed: int) -> RefineMetrics:
    """The metrics of a run, from its rows in the order of the input. No answer counts as wrong."""
    graded = [row for row in rows if row.answer is not None]
    turns: list[TurnMetrics] = []
    methods: list[MethodMetrics] = []
    for turn in range(max((len(row.after) for row in graded), default=0)):
        outcomes = [_right(row, turn) for row in graded]
        changes = [_right(row, turn) - _right(row, 0) for row in graded]
        interval = mean_interval(outcomes)
        accuracy = math.fsum(outcomes) / len(outcomes)
        turns.append(
            TurnMetrics(
                turn=turn,
                accuracy=accuracy,
                low=interval.low,
                high=interval.high,
                refined=sum(len(row.turns) > turn for row in graded) if turn else 0,
                accepted=sum(any(one.accepted for one in row.turns[: turn + 1]) for row in graded),
                accepted_wrong=sum(
                    any(one.accepted for one in row.turns[: turn + 1]) and not _right(row, turn) for row in graded
                ),
                fixed=sum(change > 0 for change in changes),
                broken=sum(change < 0 for change in changes),
                policy=sum(one.policy for row in graded for one in row.turns[: turn + 1]) / len(graded),
                prm=sum(one.prm for row in graded for one in row.turns[: turn + 1]) / len(graded),
            )
        )
        methods.append(
            MethodMetrics(
                method="refinement", n=turn, accuracy=accuracy, low=interval.low, high=interval.high, outcomes=outcomes
            )
        )
    last = turns[-1] if turns else None
    return RefineMetrics(
        rows=len(rows),
        failed=failed,
        graded=len(graded),
        accuracy=last.accuracy if last else None,
        low=last.low if last else None,
        high=last.high if last else None,
        turns=turns,
        tokens={
            name: {
                kind: sum(getattr(getattr(row, name), kind) for row in rows)
                for kind in ("prompt", "cached", "generated")
            }
            for name in ("policy", "prm")
        },
        best_of_n=BestOfNMetrics(ids=[row.id or row.key for row in graded], methods=methods) if methods else None,
    )


def _right(row: RefineRow, turn: int) -> float:
    chosen = row.after[min(turn, len(row.after) - 1)]
    return 0.0 if chosen is None else float(row.turns[chosen].correct is True)
