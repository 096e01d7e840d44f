r"""The critic protocol, byte for byte."""

from collections import deque

import pytest

from genprm.engines.errors import ContextOverflowError
from genprm.prms.base import PRMError
from genprm.prms.critic import Critic, CriticProfile, find_index
from genprm.prms.genprm.protocol import SamplingDefaults
from genprm.types import ChainFinish
from tests.fakes import ASSISTANT, BOS, USER, ScriptedEngine

STEPS = ["2 + 2 = 4", "4 + 1 = 6", "So {x} 6"]
PROMPT = (
    f"{BOS}{USER}The following is a math problem and a solution (split into paragraphs, enclosed with tags and indexed "
    "from 0):\n\n[Math Problem]\n\nWhat is 2+2+1?\n\n[Solution]\n\n"
    "<paragraph_0>\n2 + 2 = 4\n</paragraph_0>\n\n<paragraph_1>\n4 + 1 = 6\n</paragraph_1>\n\n"
    "<paragraph_2>\nSo {x} 6\n</paragraph_2>\n\n"
    "Your task is to review and critique the solution paragraph by paragraph. Once you identify an error in a "
    "paragraph, return the index of the paragraph where the earliest error occurs. Otherwise, return the index of -1 "
    '(which typically denotes "not found").\n\nPlease put your final answer (i.e., the index) in \\boxed{}.'
    f"{ASSISTANT}"
)


async def judge(*replies, **options):
    engine = ScriptedEngine(deque(reply + "<eos>" for reply in replies))
    judgement = await Critic(engine, votes=len(replies), **options).judge("What is 2+2+1?", STEPS)
    return engine, judgement


async def test_one_chain():
    engine, judgement = await judge("Paragraph 1 is wrong: \\boxed{1}")
    assert engine.prompts == [PROMPT]
    sampling = engine.calls[0].sampling
    assert (sampling.max_tokens, sampling.temperature) == (8192, 0.0)
    assert judgement.first_error == 1
    assert judgement.scores == [1.0, 0.0, 0.0]
    assert judgement.steps[2].chains[0].finish is ChainFinish.IMPLIED
    assert judgement.solution.score == 0.0
    assert judgement.solution.chains[0].text == "Paragraph 1 is wrong: \\boxed{1}"


async def test_no_error_found():
    _, judgement = await judge("All fine: \\boxed{-1}")
    assert (judgement.first_error, judgement.scores, judgement.solution.score) == (-1, [1.0, 1.0, 1.0], 1.0)


@pytest.mark.parametrize("reply", ["I cannot say.", "\\boxed{}", "\\boxed{none}", "\\boxed{3}", "\\boxed{1_0}"])
async def test_no_index(reply):
    _, judgement = await judge(reply)
    assert judgement.first_error is None
    assert judgement.scores == [None, None, None]
    assert judgement.solution.missing == 1
    assert judgement.steps[0].reason == "no chain names a paragraph of the solution, or -1 (no_verdict)"


async def test_the_most_frequent_index_counts():
    # The median of these is 1; most name 0.
    engine, judgement = await judge("\\boxed{0}", "\\boxed{2}", "\\boxed{0}", "?", "\\boxed{1}", "\\boxed{-1}")
    assert judgement.first_error == 0
    assert judgement.first_error_vote == 0
    assert judgement.scores == [pytest.approx(3 / 5), pytest.approx(2 / 5), pytest.approx(1 / 5)]
    assert judgement.solution.score == pytest.approx(1 / 5)
    sampling = [call.sampling for call in engine.calls]
    assert {(s.temperature, s.top_p) for s in sampling} == {(1.0, 0.9)}
    assert len({s.seed for s in sampling}) == 6


async def test_of_equally_frequent_indices_the_first_counts():
    _, judgement = await judge("\\boxed{2}", "\\boxed{ 1 }", "\\boxed{1}", "\\boxed{2}")
    assert judgement.first_error == 2


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("\\boxed{3} no, \\boxed{2}", 2),
        ("$\\boxed{-1}$", -1),
        ("\\boxed{+2}", 2),
        ("\\boxed{+ 0}", 0),
        ("\\boxed{\u22121}", -1),
        ("\\boxed{+-1}", None),
        ("\\boxed{ - 1 }.", -1),
        ("\\boxed{\\text{paragraph_4}}", 4),
        ("\\boxed{<paragraph_4>}", 4),
        ("\\boxed{Paragraph 12}", 12),
        ("\\boxed{\\text{2}}", 2),
        ("\\boxed{2", None),
        ("\\boxed{-2}", None),
        ("\\boxed{1_0}", None),
        ("\\boxed{2.5}", None),
        ("2", None),
    ],
)
def test_find_index(text, index):
    assert find_index(text) == index


async def test_another_template():
    profile = CriticProfile(template="{{ problem }}|{{ steps | join(';') }}")
    engine, _ = await judge("\\boxed{-1}", profile=profile)
    assert engine.prompts == [f"{BOS}{USER}What is 2+2+1?|{';'.join(STEPS)}{ASSISTANT}"]


async def test_what_cannot_be_judged():
    engine = ScriptedEngine(deque(), max_model_len=10)
    with pytest.raises(ContextOverflowError, match="no room to answer"):
        await Critic(engine).judge("p", ["s"])
    with pytest.raises(PRMError, match="no steps"):
        await Critic(engine).judge("p", [])
    with pytest.raises(PRMError, match="same chain"):
        Critic(engine, votes=2, sampling=SamplingDefaults(0.0, 1.0, 0))
    with pytest.raises(PRMError, match="max_tokens"):
        CriticProfile(max_tokens=0)
