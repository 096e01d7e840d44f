"""Terminal output about undecided rows and judges of whole solutions."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from genprm.benchmarks.metrics import Tally
from genprm.cli.summary import print_rows, print_summary
from genprm.runs.rows import verify_row
from genprm.types import Chain, ChainFinish, Judgement, StepJudgement, combine_chains
from tests.judges import row


def step(score: float | None, reason: str | None = None) -> StepJudgement:
    found = combine_chains([Chain("", (), score, None, None, ChainFinish.NO_VERDICT)])
    return replace(found, reason=reason) if reason else found


UNLABELLED = "no chain labels this step"
WHOLE = "the solution as a whole is judged wrong, but none of its steps is"


@pytest.mark.parametrize(
    ("judgement", "first_error", "reason"),
    [
        (Judgement((step(0.9), step(None, UNLABELLED))), None, f"a step has no score: {UNLABELLED}"),
        (Judgement((step(None, UNLABELLED), step(0.1))), None, f"a step has no score: {UNLABELLED}"),
        (Judgement((step(0.9), step(None)), solution=step(0.2)), None, WHOLE),
        (Judgement((step(0.9), step(0.8)), solution=step(0.2)), None, WHOLE),
        (Judgement((step(None, "x"), step(0.1)), solution=step(0.2)), None, "a step has no score: x"),
        (Judgement((step(None, "no index"),), solution=step(None)), None, "a step has no score: no index"),
        (Judgement((step(0.9), step(None, UNLABELLED)), solution=step(0.8)), -1, None),
        (Judgement((step(0.9), step(0.1), step(None))), 1, None),
        (Judgement((step(None),), first_error_vote=0), 0, None),
    ],
)
def test_why_a_first_error_is_undecided(judgement, first_error, reason):
    assert (judgement.first_error, judgement.reason) == (first_error, reason)
    steps = ["s"] * len(judgement.steps)
    assert verify_row(row(0, *steps), judgement, seconds=0.0).reason == reason


def shown(*judgements: Judgement) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    tally = Tally()
    rows = [verify_row(row(n, *["s"] * len(one.steps)), one, seconds=0.0) for n, one in enumerate(judgements)]
    for one in rows:
        tally.add(one)
    print_rows(console, rows)
    print_summary(console, tally.metrics(failed=0))
    return " ".join(console.file.getvalue().split())


def test_reasons_stand_beside_the_rows_and_are_counted():
    text = shown(
        Judgement((step(0.9), step(None, UNLABELLED))),
        Judgement((step(0.9), step(None, UNLABELLED))),
        Judgement((step(0.9), step(0.8)), solution=step(0.2)),
    )
    assert text.count(f"undecided: a step has no score: {UNLABELLED}") == 2
    assert f"undecided: {WHOLE}" in text
    assert f"undecided 3 2: a step has no score: {UNLABELLED} 1: {WHOLE}" in text


def test_a_judge_of_whole_solutions_shows_its_score():
    text = shown(Judgement((step(None), step(None)), solution=step(0.93)))
    assert "0.93 as a whole none" in text
    assert "–" not in text
    assert "0.90 0.80 0.20 as a whole" in shown(Judgement((step(0.9), step(0.8)), solution=step(0.2)))
