import pytest

from genprm.benchmarks.searches import evaluate_searches
from genprm.runs.rows import TokensRow
from genprm.search.rows import CandidateRow, SearchRow
from genprm.search.run import Method
from genprm.search.voting import Aggregate
from genprm.types import logit


def candidate(answer, correct, *votes, tokens=10, finished=True, steps=None):
    score = sum(votes) / len(votes) if votes else None
    return CandidateRow(
        steps=steps or [f"{answer} {votes}"],
        finished=finished,
        answer=answer,
        correct=correct,
        reward=None if score is None else logit(score),
        score=score,
        scores=[score] * len(steps or [1]),
        votes=[[vote] * len(steps or [1]) for vote in votes],
        vote_tokens=[[100] * len(steps or [1])] * len(votes),
        generated=tokens,
    )


def row(number, *candidates, chosen=0):
    one = candidates[chosen] if candidates else None
    return SearchRow(
        key=f"{number}", problem="p", answer="1", chosen=chosen if one else None, prediction=one and one.answer,
        correct=one and one.correct, candidates=list(candidates), policy=TokensRow(generated=20),
        prm=TokensRow(generated=400), seconds=1.0,
    )  # fmt: skip


def evaluated(*rows, method=Method.BEST_OF_N, **options):
    return evaluate_searches(rows, method, failed=0, aggregate=Aggregate.MIN, **options)


def test_accuracies_and_what_they_cost():
    rows = [
        row(0, candidate("1", True, 0.4, 0.2), candidate("2", False, 0.3, 0.9), chosen=1),
        row(1, candidate("3", False, 0.1, 0.1), candidate("1", True, 0.8, 0.8), chosen=1),
    ]
    metrics = evaluated(*rows)
    assert metrics.accuracy == 0.5
    found = {(one.method, one.n): one.accuracy for one in metrics.best_of_n.methods}
    assert found["best-of-n", 2] == 0.5
    assert found["pass@k", 1] == 0.5
    assert [(cost.n, cost.policy, cost.prm) for cost in metrics.costs] == [(1, 10, 200), (2, 20, 400)]
    assert metrics.tokens["prm"]["generated"] == 800
    splits = {(one.n, one.votes): (one.tokens, one.accuracy) for one in metrics.splits}
    # One vote already tells the right one in both problems; the second misleads in the first.
    assert splits == {(1, 0): (10, 0.5), (2, 0): (20, 0.5), (2, 1): (220, 1.0), (2, 2): (420, 0.5)}
    assert [(one.tokens, one.best.votes, one.best.accuracy) for one in metrics.budgets] == [(10, 0, 0.5), (220, 1, 1.0)]
    # On the first problem alone the first solution is as good and cheaper; it fails on the second.
    assert metrics.budgets[1].held_out == 0.5


def test_equal_solutions_are_paid_for_once():
    same = candidate("1", True, 0.4, steps=["x"])
    assert [cost.prm for cost in evaluated(row(0, same, same)).costs] == [100, 100]


def test_beginnings_that_solutions_share_are_paid_for_once():
    one, other = (candidate("1", True, 0.4, steps=["x", end]) for end in "yz")
    assert [cost.prm for cost in evaluated(row(0, one, other)).costs] == [200, 300]


def test_judges_without_votes_share_what_was_spent():
    assert [cost.prm for cost in evaluated(row(0, candidate("1", True), candidate("2", False))).costs] == [200, 400]


def test_unfinished_and_missing_solutions():
    cut = candidate(None, False, finished=False)
    metrics = evaluated(row(0, cut, candidate("1", True, 0.6), chosen=1), row(1, cut, cut, chosen=0))
    assert (metrics.unfinished, metrics.solutions) == (3, 4)
    assert metrics.accuracy == 0.5


def test_the_solutions_of_a_beam_only_count_together():
    rows = [
        row(0, candidate("1", True, 0.9), candidate("2", False, 0.1)),
        row(1, candidate("1", True, 0.9)),
        row(2).model_copy(update={"chosen": None}),
    ]
    metrics = evaluated(*rows, method=Method.BEAM)
    assert {(one.method, one.n) for one in metrics.best_of_n.methods} == {
        (name, 2) for name in ("majority", "best-of-n", "weighted", "pass@n")
    }
    assert metrics.accuracy == pytest.approx(2 / 3)
    assert metrics.splits == []
    dvts = evaluated(*rows, method=Method.DVTS, width=2)
    assert {one.n for one in dvts.best_of_n.methods if one.method == "majority"} == {2}


def test_what_was_not_compared_is_counted():
    metrics = evaluated(row(0, candidate("x", None, 0.5)))
    assert metrics.ungraded == 1
    assert metrics.accuracy == 0.0


def test_without_references_there_are_no_accuracies():
    one = row(0, candidate("x", None, 0.5)).model_copy(update={"answer": None})
    metrics = evaluated(one)
    assert (metrics.accuracy, metrics.best_of_n, metrics.graded) == (None, None, 0)
