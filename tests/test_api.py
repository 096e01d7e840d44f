"""Python in a notebook: a reusable judge, short reprs, checked arguments."""

import asyncio
import json

import pytest

import genprm
from genprm.engines import BUILT_IN, EngineError
from genprm.fields import ConfigError
from genprm.sandbox import SandboxError
from genprm.types import Chain, ChainFinish, CodeRun, combine_chains
from tests.engines.servers import model_server

PROBLEM = "Ann had 2 apples and got 3. How many has she?"
GOOD, BAD = ["She has 2+3 = 5."], ["She has 2+3 = 6."]


@pytest.fixture(scope="module")
def judge():
    with genprm.Judge("nano", with_code=False, mode="code") as judge:
        yield judge


def test_the_model_is_kept_and_many_are_judged_in_order(judge):
    prm = judge._prm
    one = judge(PROBLEM, BAD)
    many = judge.many([(PROBLEM, GOOD), {"problem": PROBLEM, "steps": BAD}, (PROBLEM, GOOD)])
    assert [len(each.steps) for each in many] == [1, 1, 1]
    assert many[1].scores == pytest.approx(one.scores, abs=1e-5)
    assert many[0].scores == pytest.approx(many[2].scores, abs=1e-5)
    assert judge._prm is prm


def test_what_belongs_to_another_loop_says_so():
    def opened_here_and_used_there(error, **options):
        loop = asyncio.new_event_loop()
        prm = loop.run_until_complete(genprm.load_prm(**options))
        with pytest.raises(error, match=r"belongs to another event loop.*genprm\.Judge"):
            asyncio.run(prm.judge(PROBLEM, GOOD))
        loop.run_until_complete(prm.close())
        loop.close()

    opened_here_and_used_there(SandboxError, model="nano", sandbox="bubblewrap")
    with model_server(BUILT_IN["nano"]) as server:
        # One URL may be a text, and a folder a path.
        served = {"base_url": server.url, "tokenizer": BUILT_IN["nano"]}
        opened_here_and_used_there(EngineError, model="policy", family="genprm", mode="analyze", **served)


def test_it_works_where_a_loop_runs(judge):
    async def cell():
        return judge(PROBLEM, GOOD)

    assert len(asyncio.run(cell()).steps) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda judge: judge(PROBLEM, GOOD[0]), "steps must be a list of texts, not one text: 'She has"),
        (lambda judge: judge(PROBLEM, []), "there are no steps"),
        (lambda judge: judge(PROBLEM, [1]), "step 0 is not a text: 1"),
        (lambda judge: judge.many([{"problem": PROBLEM}]), "row 0 has no steps, only 'problem'"),
        (lambda judge: judge.many(["text"]), "row 0 is neither"),
    ],
)
def test_arguments_are_checked(judge, call, said):
    with pytest.raises(genprm.PRMError, match=said):
        call(judge)


@pytest.mark.parametrize(
    ("options", "said"), [({"vote": 2}, "votes"), ({"threshold": 3}, "threshold"), ({"votes": 0}, "votes")]
)
def test_options_are_checked_before_anything_is_loaded(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        genprm.Judge("nano", **options)
    assert "__init__" not in str(caught.value)


def test_a_closed_judge_says_so():
    judge = genprm.Judge("nano", with_code=False, mode="analyze")
    judge.close()
    judge.close()
    assert repr(judge) == "Judge('nano', closed)"
    with pytest.raises(genprm.PRMError, match="is closed"):
        judge(PROBLEM, GOOD)


async def test_open_judge_is_public():
    async with genprm.open_judge("nano", with_code=False, mode="analyze") as judge:
        assert len((await judge.judge(PROBLEM, GOOD)).steps) == 1


def test_short_reprs_and_plain_values():
    run = CodeRun("print('<b>')", "ok", "<b>\n", None, 0.1)
    chain = Chain("<script>" + "x" * 5000, (run,), 0.25, -1.0, genprm.Verdict.NO, ChainFinish.VERDICT)
    found = genprm.Judgement((combine_chains([chain]),))
    assert repr(found) == "Judgement(first_error=0, scores=[0.250], 0 tokens generated)"
    html = found._repr_html_()
    assert "first wrong step: 1" in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["first_error"] == 0
    assert plain["verdicts"] == ["No"]
    assert plain["steps"][0]["chains"][0]["code"][0]["stdout"] == "<b>\n"
