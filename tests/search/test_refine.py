"""The critic loop, byte for byte, and the results of its turns."""

from dataclasses import dataclass, field

import pytest

import genprm
from genprm.benchmarks.refinement import evaluate_refinement
from genprm.config import PolicyConfig
from genprm.data.problems import ProblemRow
from genprm.search.policy import Policy
from genprm.search.refine import KeepTurn, RefineSettings, Style, analysis_of, critique, critique_of, refine
from genprm.types import Chain, ChainFinish, CodeRun, Judgement, combine_chains, logit
from tests.fakes import ASSISTANT, EOS, USER, RuleEngine
from tests.search.shared import TextGrader, TruthJudge

LEAD = "There might be some problem in this paragraph of your reasoning, please rethink and refine your answer:\n>"
ANALYSIS = "<analyze>\nLet's analyze the Paragraph 2 step by step: It says 24+48 = 73: that is 72.\n</analyze>\n"
PROBLEM = ProblemRow("k", "f", 1, "p", "id", "2")


def chain(score: float, text: str = ANALYSIS) -> Chain:
    run = CodeRun("print(24 + 48 == 73)\n", "ok", "False\n", None, 0.001)
    return Chain(text + "<verify>\nx\n</verify>\n", (run,), score, logit(score), None, ChainFinish.VERDICT)


def judgement(*scores: float | None) -> Judgement:
    return Judgement(tuple(combine_chains([] if score is None else [chain(score)]) for score in scores))


def test_the_message_is_that_of_the_published_experiment():
    found = critique_of(["a", "24+48 = 73.", "c"], judgement(0.9, 0.1, 0.2))
    assert (found.step, found.accepted) == (1, False)
    assert found.message == LEAD + "24+48 = 73.\n\nIt says 24+48 = 73: that is 72."


def test_the_message_with_code():
    found = critique_of(["24+48 = 73."], judgement(0.1), Style.CODE)
    assert found.message == (
        LEAD + "24+48 = 73.\n\nIt says 24+48 = 73: that is 72.\n\nI checked it with this Python code:\n"
        "```python\nprint(24 + 48 == 73)\n```\nIt printed:\n```\nFalse\n```"
    )


def test_nothing_wrong_is_nothing_to_say():
    found = critique_of(["a", "b"], judgement(0.9, 0.5))
    assert (found.step, found.message, found.accepted) == (None, None, True)
    assert critique_of(["a", "b"], judgement(None, 0.9)).accepted


def test_the_vote_against_the_step_speaks():
    chains = [
        chain(0.9, "<analyze>\nOpening: for it\n</analyze>\n"),
        chain(0.0, "<analyze>\nOpening: against\n</analyze>\n"),
    ]
    assert critique_of(["a"], Judgement((combine_chains(chains),))).analysis == "against"


def test_a_judge_that_names_the_step_is_believed():
    named = Judgement(judgement(0.9, 0.9).steps, first_error_vote=1)
    assert critique_of(["a", "b"], named).step == 1
    whole = Judgement(judgement(0.9).steps, solution=combine_chains([chain(0.1)]))
    found = critique_of(["a"], whole)
    assert (found.step, found.accepted, found.message) == (None, False, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<analyze>\nLead: the rest: of it\nmore\n</analyze>\n<verify>no</verify>", "the rest: of it\nmore"),
        ("<analyze>\nno colon here\n</analyze>", "no colon here"),
        ("<analyze>\nfirst line\nsecond: line\n</analyze>", "first line\nsecond: line"),
        ("<analyze>\nLead: never closed", "never closed"),
        ("Step 2 is wrong.", "Step 2 is wrong."),
        ("", ""),
    ],
)
def test_analyses(text, expected):
    assert analysis_of(text) == expected


@dataclass
class Sayings:
    """A policy with a list of answers."""

    replies: list[str]
    seen: list[str] = field(default_factory=list)

    def policy(self, **settings) -> Policy:
        engine = RuleEngine(lambda *_: self.replies.pop(0))
        engine.prompts = self.seen
        return Policy(engine, PolicyConfig(prompt="{{ problem }}", **settings))


def worth(step: str) -> float:
    return 0.9 if "good" in step else 0.4 if "better" in step else 0.2


async def refined(replies: list[str], keep: KeepTurn = KeepTurn.BEST, turns: int = 3, **settings):
    says = Sayings([reply + "<eos>" for reply in replies])
    row = await refine(
        PROBLEM, RefineSettings(turns, keep), policy=says.policy(**settings), prm=TruthJudge(worth), grader=TextGrader()
    )
    return row, says


async def test_the_conversation_holds_the_last_solution_and_what_is_wrong_with_it():
    row, says = await refined(["bad\n\nsum \\boxed{1}", "better \\boxed{2}", "good \\boxed{2}"])
    assert says.replies == []
    first, second, third = says.seen
    assert first.endswith(f"{USER}p{ASSISTANT}")
    message = f"{LEAD}bad\n\nabout bad"
    assert second.endswith(f"{USER}p{ASSISTANT}bad\n\nsum \\boxed{{1}}{EOS}{USER}{message}{ASSISTANT}")
    assert third.endswith(
        f"{ASSISTANT}better \\boxed{{2}}{EOS}{USER}{LEAD}better \\boxed{{2}}\n\nabout better \\boxed{{2}}{ASSISTANT}"
    )
    assert [turn.accepted for turn in row.turns] == [False, False, True]
    assert row.turns[0].message == message
    assert (row.chosen, row.prediction, row.correct) == (2, "2", True)
    assert row.after == [0, 1, 2, 2]
    assert row.policy.generated == sum(turn.policy for turn in row.turns)
    assert row.prm.generated == 4


async def test_an_accepted_solution_is_left_alone():
    row, _ = await refined(["good \\boxed{2}"])
    assert len(row.turns) == 1
    assert row.after == [0, 0, 0, 0]


@pytest.mark.parametrize(("keep", "chosen"), [(KeepTurn.BEST, 0), (KeepTurn.LAST, 1)])
async def test_which_turn_is_kept(keep: KeepTurn, chosen: int):
    row, _ = await refined(["better \\boxed{2}", "bad \\boxed{1}"], keep, turns=1)
    assert row.chosen == chosen
    assert row.correct is (chosen == 0)


async def test_a_turn_without_an_end_is_never_kept():
    row, says = await refined(["bad \\boxed{1}", "x" * 99, "good \\boxed{2}"], max_tokens=20)
    assert [turn.finished for turn in row.turns] == [True, False, True]
    assert row.after == [0, 0, 2, 2]
    # The third turn continues from the first one.
    assert "bad \\boxed{1}" in says.seen[2]
    nothing, _ = await refined(["x" * 99], turns=0, max_tokens=20)
    assert (nothing.chosen, nothing.prediction, nothing.correct) == (None, None, None)


async def test_what_each_turn_mends_and_breaks():
    fixed, _ = await refined(["bad \\boxed{1}", "good \\boxed{2}"])
    broken, _ = await refined(["better \\boxed{2}", "good \\boxed{1}"])
    same, _ = await refined(["good \\boxed{2}"])
    rows = [fixed, broken.model_copy(update={"key": "b"}), same.model_copy(update={"key": "s"})]
    metrics = evaluate_refinement(rows, failed=0)
    table = [
        (t.turn, round(3 * t.accuracy), t.refined, t.accepted, t.accepted_wrong, t.fixed, t.broken)
        for t in metrics.turns
    ]
    assert table == [(0, 2, 0, 1, 0, 0, 0), (1, 2, 2, 3, 1, 1, 1), (2, 2, 0, 3, 1, 1, 1), (3, 2, 0, 3, 1, 1, 1)]
    assert metrics.best_of_n.methods[0].outcomes == [0.0, 1.0, 1.0]


@pytest.mark.bubblewrap
@pytest.mark.slow
async def test_the_built_in_model_as_a_critic():
    found = await genprm.critique("What is 48/2 + 48?", ["48/2 = 24.", "24+48 = 73."], sandbox="bubblewrap")
    assert isinstance(found, genprm.Critique)
    assert not found.accepted
    assert found.message.startswith(LEAD)
    assert genprm.critique is critique
