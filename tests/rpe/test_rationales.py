import contextlib

import pytest

from genprm.data.word_problems import make_problems
from genprm.prms.profiles import GenPRMModel
from genprm.rpe.consensus import drop_reason, to_messages
from genprm.rpe.rationales import (
    GeneratorTeacher,
    ModelTeacher,
    Review,
    StepCritique,
    TeacherError,
    read_critiques,
    to_turn,
)
from genprm.rpe.rows import Drop
from genprm.sandbox import Sandbox
from genprm.train.export import Conversation, ExportError, export
from tests.fakes import ScriptedEngine, byte_tokenizer

STEPS = ["Step 1: She has 2*3 = 6 cards.", "Step 2: With Ben that makes 6+1 = 8 cards. The answer is \\boxed{8}."]
FIRST = "Two times three is six.\n</analyze>\n<verify>\nI check it.\n```python\nprint(2*3 == 6)\n```\n"
SECOND = (
    "It holds.\n</verify>\n### Paragraph 2\n<analyze>\nSix and one is seven.\n</analyze>\n<verify>\n"
    "```python\nprint(6+1 == 8)\n```\n"
)


async def test_code_is_run_as_soon_as_its_block_is_closed_and_its_output_is_read(box: Sandbox) -> None:
    engine = ScriptedEngine.of(FIRST, SECOND, "It is wrong.\n</verify>\nSo the second.</think>", "{2}")
    review = await ModelTeacher(engine, box, verdicts=1).review("What?", STEPS, identity=None, seed=0)
    assert review.first_error == 1
    assert review.snippets == {"ok": 2}
    assert review.critiques[0] == StepCritique(
        "Two times three is six.",
        "```python\nprint(2*3 == 6)\n```\n[Code Output]\n\n```\nTrue\n```\nIt holds.",
    )
    assert review.critiques[1] is not None
    assert "```\nFalse\n```\nIt is wrong." in review.critiques[1].verification
    first, second, _, verdict = engine.prompts
    assert first.endswith("<think>\n### Paragraph 1\n<analyze>\n")
    assert "<paragraph_1>\nShe has 2*3 = 6 cards.\n</paragraph_1>" in first
    assert second.endswith("[Code Output]\n\n```\nTrue\n```\n")
    # Text after the last paragraph's review is not part of the prompt for the verdict.
    assert "So the second" not in verdict
    assert verdict.endswith("or -1 if none does: $\\boxed")


@pytest.mark.parametrize(("said", "index"), [("{-1}", -1), ("{1}", 0), ("{0}", None), ("{3}", None), ("{none}", None)])
async def test_the_named_paragraph_is_a_step_or_nothing(box: Sandbox, said: str, index: int | None) -> None:
    engine = ScriptedEngine.of("Fine.\n</analyze>\n<verify>\nNothing to run.\n</verify>\n</think>", said)
    review = await ModelTeacher(engine, box, verdicts=1).review("What?", STEPS, identity=None, seed=0)
    assert review.first_error == index


async def test_a_review_that_never_ends_is_given_up(box: Sandbox) -> None:
    block = "```python\nprint(1)\n```\n"
    engine = ScriptedEngine.of(*[f"x\n{block}"] * 100)
    review = await ModelTeacher(engine, box, verdicts=1).review("What?", STEPS, identity=None, seed=0)
    assert review.snippets == {"ok": 64}
    assert review.first_error is None


async def test_the_verdict_is_what_most_say(box: Sandbox) -> None:
    engine = ScriptedEngine.of("a\n</analyze>\n<verify>\nb\n</verify>\n</think>", "{2}", "{1}", "{2}")
    review = await ModelTeacher(engine, box, verdicts=3).review("What?", STEPS, identity=None, seed=0)
    assert review.first_error == 1


async def test_the_generator_knows_the_truth_and_runs_its_code(box: Sandbox) -> None:
    problem = make_problems(3, 8)[2]
    teacher = GeneratorTeacher(box)
    right = await teacher.review(problem.text, problem.solution, identity=problem.id, seed=0)
    assert right.first_error == -1
    assert right.snippets == {"ok": len(problem.solution)}
    assert all(critique is not None for critique in right.critiques)
    assert read_critiques(right.text, len(problem.solution)) == right.critiques
    steps = list(problem.solution)
    steps[1] = "Step 2: Then there are 1+1 = 2 of them."
    wrong = await teacher.review(problem.text, steps, identity=problem.id, seed=0)
    assert wrong.first_error == 1
    assert wrong.critiques[1] is not None
    assert "not what the problem asks for" in wrong.critiques[1].verification
    assert "2 True" in wrong.critiques[1].verification  # the code ran: it says that the sum is right


async def test_the_generator_does_not_review_what_it_did_not_make(box: Sandbox) -> None:
    with pytest.raises(TeacherError, match="not 'other-1'"):
        await GeneratorTeacher(box).review("What is 1+1?", STEPS, identity="other-1", seed=0)


CRITIQUE = StepCritique("It says 6.", "```python\nprint(6)\n```\n[Code Output]\n\n```\n6\n```\nFine.")


@pytest.mark.parametrize(
    ("label", "review", "reason"),
    [
        (-1, Review((CRITIQUE, CRITIQUE), -1, ""), None),
        (0, Review((CRITIQUE, None), 0, ""), None),
        (None, Review((CRITIQUE, CRITIQUE), -1, ""), Drop.UNDECIDED),
        (1, Review((CRITIQUE, CRITIQUE), None, ""), Drop.NO_VERDICT),
        (1, Review((CRITIQUE, CRITIQUE), 0, ""), Drop.DISAGREES),
        (1, Review((CRITIQUE, None), 1, ""), Drop.LAYOUT),
        (-1, Review((CRITIQUE, StepCritique("So.", "It is fine.")), -1, ""), Drop.CODE),
    ],
)
def test_what_is_kept(label: int | None, review: Review, reason: Drop | None) -> None:
    assert drop_reason(label, ["a", "b"], review) is reason


@pytest.mark.parametrize(("blocks", "reason"), [(1, None), (2, None), (3, Drop.BLOCKS)])
async def test_a_review_with_more_code_than_the_judge_can_write_is_dropped(blocks: int, reason: Drop | None) -> None:
    code = "".join(f"```python\nprint({k})\n```\n[Code Output]\n\n```\n{k}\n```\n" for k in range(blocks))
    review = Review((StepCritique("It says 2.", f"{code}Fine."),), -1, "")
    assert drop_reason(-1, ["a"], review) is reason
    messages = to_messages("Why?", ["a"], -1, review, question=False)
    conversation = Conversation("Why?", ("a",), (messages[-1].content,))
    with pytest.raises(ExportError) if reason else contextlib.nullcontext():
        await export(conversation, byte_tokenizer(), GenPRMModel())


def test_a_turn_is_in_the_layout_of_genprm() -> None:
    assert to_turn(2, CRITIQUE, correct=False) == (
        "<analyze>\nLet's analyze the Paragraph 2 step by step: It says 6.\n</analyze>\n<verify>\n"
        "Let's use python code to find any potential error:\n```python\nprint(6)\n```\n"
        "[Code Output]\n\n```\n6\n```\nFine.\n</verify>\n<output>\n**Judgement**: $\\boxed{No}$\n</output>\n"
    )


def test_a_conversation_ends_at_the_first_wrong_step() -> None:
    review = Review((CRITIQUE, CRITIQUE, None), 1, "")
    messages = to_messages("Why?", ["a", "b", "c"], 1, review, question=True)
    assert [message.role for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[1].content == "Question: Why?\n\na"
    assert "{Yes}$" in messages[2].content
    assert "{No}$" in messages[4].content
    assert to_messages("Why?", ["a"], -1, review, question=False)[1].content == "Why?\na"
