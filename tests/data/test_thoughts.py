"""Reasoning models: only the text after the last `</think>` is the solution, everywhere."""

import json

import pytest

from genprm.config import Keep, PolicyConfig
from genprm.data.inputs import BadRow, read_rows
from genprm.data.pools import PoolItem
from genprm.data.problems import ProblemRow
from genprm.data.thoughts import UNCLOSED, cut_thoughts
from genprm.runs.rows import verify_row
from genprm.search.policy import Policy, SolutionState
from genprm.search.refine import RefineSettings, refine
from genprm.search.run import Choose, Method, SearchSettings, search
from genprm.types import Judgement, combine_chains
from tests.fakes import ASSISTANT, EOS, TEMPLATE, RuleEngine, byte_tokenizer
from tests.search.shared import TextGrader, TruthJudge

THINKING = TEMPLATE.replace("'" + ASSISTANT + "' }}{% endif %}", "'" + ASSISTANT + "<think>\\n' }}{% endif %}")


@pytest.mark.parametrize(
    ("text", "thinking", "thoughts", "solution", "still"),
    [
        ("a\n\nb", False, None, "a\n\nb", False),
        ("<think>\nhm\n</think>\n\na", False, "hm", "\n\na", False),
        ("hm\n</think>\n\na", True, "hm", "\n\na", False),
        ("hm</think>a", False, "hm", "a", False),
        ("<think>x</think>no <think>y</think>a", False, "x</think>no <think>y", "a", False),
        ("<think>\n\n</think>\n\na", False, None, "\n\na", False),
        ("<think>\nhm \\boxed{3}", False, "hm \\boxed{3}", "", True),
        ("hm", True, "hm", "", True),
        ("x</think>\n<think>y", False, "x</think>\n<think>y", "", True),
        ("The tag <think> is no thought", False, None, "The tag <think> is no thought", False),
    ],
)
def test_where_a_text_is_cut(text, thinking, thoughts, solution, still):
    part = cut_thoughts(text, thinking=thinking)
    assert (part.thoughts, part.solution, part.thinking) == (thoughts, solution, still)


def policy(*replies: str, template: str = TEMPLATE, **settings) -> Policy:
    waiting = list(replies)
    tokenizer = byte_tokenizer()
    tokenizer._hf.chat_template = template
    return Policy(RuleEngine(lambda *_: waiting.pop(0), tokenizer), PolicyConfig(**settings))


@pytest.mark.parametrize("template", [TEMPLATE, THINKING])
async def test_whole_solutions(template):
    lead = "" if template == THINKING else "<think>\n"
    reasons = policy(f"{lead}maybe 3\n\nno, 4\n</think>\n\na\n\nso \\boxed{{4}}<eos>", template=template)
    solution = await reasons.finish(reasons.begin("p"), 0)
    assert solution.steps == ("a", "so \\boxed{4}")
    assert (solution.thoughts, solution.state, solution.reason) == ("maybe 3\n\nno, 4", SolutionState.FINISHED, None)
    assert "maybe" not in solution.text


@pytest.mark.parametrize("template", [TEMPLATE, THINKING])
async def test_a_thought_without_an_end_is_unfinished(template):
    lead = "" if template == THINKING else "<think>\n"
    for reply, options in ((f"{lead}so \\boxed{{4}}<eos>", {}), (f"{lead}so \\boxed{{4}} and on", {"max_tokens": 24})):
        reasons = policy(reply, template=template, **options)
        solution = await reasons.finish(reasons.begin("p"), 0)
        assert (solution.steps, solution.state, solution.reason) == ((), SolutionState.CUT, UNCLOSED)
        assert solution.thoughts.startswith("so \\boxed{4}")


@pytest.mark.parametrize(("template", "opening"), [(TEMPLATE, ""), (THINKING, ""), (THINKING, "Step {number}: ")])
async def test_step_by_step_the_thought_is_part_of_the_first_step(template, opening):
    lead = [] if template == THINKING else ["<think>\n\n"]
    reasons = policy(*lead, "x\n\ny</think>", "\n\n", "a\n\n", "\\boxed{4}<eos>", template=template, opening=opening)
    first = await reasons.step(reasons.begin("p"), 0)
    label = opening.replace("{number}", "1")
    assert (first.steps, first.thoughts, first.thinking) == ((f"{label}a",), "x\n\ny", False)
    engine = reasons.engine
    assert [sampling.stop for sampling in engine.samplings][len(lead)] == ("</think>",)
    # The opening of a step is never written into the thought.
    assert not any(prompt.endswith(f"<think>\n{label}") for prompt in engine.prompts[1:] if label)
    second = await reasons.step(first, 1)
    assert len(second.steps) == 2
    assert second.state is SolutionState.FINISHED
    assert second.spent.generated > 0


async def test_a_thought_that_never_ends_step_by_step():
    reasons = policy("x\n\ny<eos>", template=THINKING)
    solution = await reasons.step(reasons.begin("p"), 0)
    assert (solution.steps, solution.state, solution.reason) == ((), SolutionState.CUT, UNCLOSED)


async def test_refinement_sends_the_solution_back_and_keeps_the_thoughts():
    reasons = policy("hm\n</think>\nbad \\boxed{1}<eos>", "oh\n</think>\ngood \\boxed{2}<eos>", template=THINKING)
    judge = TruthJudge(lambda step: 0.9 if "good" in step else 0.2)
    problem = ProblemRow("k", "f", 1, "p", "id", "2")
    row = await refine(problem, RefineSettings(turns=1), policy=reasons, prm=judge, grader=TextGrader())
    assert f"{ASSISTANT}bad \\boxed{{1}}{EOS}" in reasons.engine.prompts[1]
    assert [turn.thoughts for turn in row.turns] == ["hm", "oh"]
    assert judge.judged == [("bad \\boxed{1}",), ("good \\boxed{2}",)]
    assert row.prediction == "2"


async def test_refinement_says_that_a_thought_has_no_end():
    reasons = policy("hm \\boxed{2}<eos>", template=THINKING)
    problem = ProblemRow("k", "f", 1, "p", "id", "2")
    row = await refine(
        problem, RefineSettings(turns=0), policy=reasons, prm=TruthJudge(lambda _: 0.9), grader=TextGrader()
    )
    assert (row.turns[0].reason, row.turns[0].answer, row.chosen) == (UNCLOSED, None, None)


async def test_pools():
    solutions = ("<think>\nor 3?\n</think>\na\n\n\\boxed{4}", "<think>\\boxed{3}", "b\n\n\\boxed{4}")
    pool = PoolItem("1", "p", solutions, ("4", "3", "4"), (True, False, True), (0.0, 9.0, 1.0))
    problem = ProblemRow("k", "f", 1, "p", "1", None, pool)
    judge = TruthJudge(lambda _: 0.9)
    settings = SearchSettings(Method.BEST_OF_N, n=3, choose=Choose.BEST)
    row = await search(problem, settings, policy=None, prm=judge, grader=TextGrader())
    assert [one.steps for one in row.candidates] == [["a", "\\boxed{4}"], [], ["b", "\\boxed{4}"]]
    assert [one.thoughts for one in row.candidates] == ["or 3?", "\\boxed{3}", None]
    assert (row.candidates[1].finished, row.candidates[1].reason) == (False, UNCLOSED)
    assert judge.judged == [("a", "\\boxed{4}"), ("b", "\\boxed{4}")]
    stored = await search(problem, settings, policy=None, prm=None, grader=TextGrader())
    assert stored.chosen == 2


def test_inputs(tmp_path):
    file = tmp_path / "in.jsonl"
    rows = [
        {"problem": "p", "solution": "<think>\nhm\n\nwell\n</think>\n\na\n\nb"},
        {"problem": "p", "solution": "<think>\nhm"},
        {"problem": "p", "solution": "<think>\nhm\n</think>\n"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    good, unclosed, blank = read_rows([file])
    assert (good.steps, good.thoughts) == (("a", "b"), "hm\n\nwell")
    assert isinstance(unclosed, BadRow)
    assert unclosed.reason == f'"solution" is unfinished: {UNCLOSED}'
    assert "blank after </think>" in blank.reason
    judged = Judgement(tuple(combine_chains([TruthJudge(lambda _: 0.9).chain(step)]) for step in good.steps))
    assert verify_row(good, judged, seconds=0.0).thoughts == "hm\n\nwell"
    assert verify_row(good, judged, seconds=0.0, keep=Keep.SCORES).thoughts is None
