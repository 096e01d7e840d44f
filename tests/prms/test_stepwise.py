"""A judgement that is extended step by step is the judgement of the whole."""

import pytest

from genprm.prms.base import StepwisePRM
from genprm.prms.genprm.judge import GenPRM
from genprm.sandbox import Sandbox
from tests.fakes import ScriptedEngine
from tests.prms.test_genprm import ANALYSIS, CODE, NO, YES

pytestmark = pytest.mark.bubblewrap
SECOND = ("It goes on.\n</analyze>\n", "print(x + 1)\n```\n", NO)


async def test_extended_by_all_steps_it_is_the_whole_judgement(box: Sandbox):
    whole = ScriptedEngine.of(ANALYSIS, CODE, YES, *SECOND)
    wanted = await GenPRM(whole, box).judge("What is 2+2?", ["2+2 = 4", "4+1 = 6"], seed=5)
    grown = ScriptedEngine.of(ANALYSIS, CODE, YES, *SECOND, *SECOND)
    prm = GenPRM(grown, box)
    assert isinstance(prm, StepwisePRM)
    empty = prm.begin("What is 2+2?", seed=5)
    one = await empty.extended("2+2 = 4")
    two = await one.extended("4+1 = 6")
    assert [call.prompt for call in grown.calls] == [call.prompt for call in whole.calls]
    assert two.judgement.scores == wanted.scores
    assert [step.chains[0].text for step in two.judgement.steps] == [step.chains[0].text for step in wanted.steps]
    # The x of the first step's snippet exists: earlier snippets run again in a new session.
    assert two.judgement.steps[1].chains[0].code[0].stdout == "5\n"
    # Another continuation of the same prefix, which is unchanged.
    other = await one.extended("4+1 = 6")
    assert other.judgement.scores == two.judgement.scores
    assert len(one.judgement.steps) == 1
    assert empty.judgement.steps == ()
