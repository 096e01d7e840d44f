"""Every family and the policy on a real pretrained model: real text, its own chat template, answers of any quality."""

import os
import warnings
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from transformers import AutoTokenizer

from genprm import prompts
from genprm.config import PolicyConfig
from genprm.data.problems import ProblemRow
from genprm.engines import Completion, Engine, Finish, Sampling, load_engine
from genprm.engines.stops import repeats
from genprm.prms.implicit.logratio import ChatSpans
from genprm.prms.load import load_prm
from genprm.search.policy import Policy
from genprm.search.refine import KeepTurn, RefineSettings, Style, refine
from genprm.types import ChainFinish
from tests.engines.conftest import VLLM_ENV
from tests.search.shared import TextGrader

PROBLEM = "Ann sold 48 clips in April and half as many in May. How many clips did she sell altogether?"
STEPS = ["In May she sold 48/2 = 24 clips.", "Altogether she sold 48+24 = 73 clips."]
LOOP = "The sum of the two numbers is the same as the sum of the other two numbers. "
SHORT = {
    "genprm": {"analysis_tokens": 16, "step_tokens": 48, "rounds": 1},
    "thinkprm": {"max_tokens": 32},
    "critic": {"max_tokens": 32},
}


ENGINES = ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=ENGINES)
async def engine(smollm2: Path, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    os.environ.update(VLLM_ENV)
    with warnings.catch_warnings():
        # Warnings of vLLM and its libraries at their start are not ours to fix.
        warnings.simplefilter("ignore")
        opened = await load_engine(request.param, str(smollm2), max_model_len=2048)
    yield opened
    await opened.close()


class Going:
    """An engine that records the prompts it is sent, and goes on from another text where one is given."""

    def __init__(self, engine: Engine, text: str | None = None) -> None:
        self._engine = engine
        self._text = text
        self.prompts: list[list[int]] = []

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        self.prompts.append(list(prompt_ids))
        ids = prompt_ids if self._text is None else self._engine.tokenizer.encode(self._text)
        return await self._engine.generate(ids, sampling)


async def judge_with(engine: Engine, family: str, **more):
    profile = SHORT.get(family)
    prm = await load_prm(engine.model_name, engine=engine, family=family, profile=profile, **more)
    try:
        return await prm.judge(PROBLEM, STEPS)
    finally:
        await prm.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("critic", {}),
        ("genprm", {"with_code": False}),
        ("thinkprm", {}),
        ("implicit", {"reference": "none"}),
    ],
)
async def test_a_judge_of_any_family_comes_to_an_end_and_explains_itself(engine: Engine, family: str, more) -> None:
    judged = await judge_with(engine, family, **more)
    assert len(judged.steps) == 2
    for step in judged.steps:
        assert (step.score is None) == (step.reason is not None and "implied" not in step.reason)
        assert step.score is None or 0 <= step.score <= 1
    assert (judged.first_error is None) == (judged.reason is not None)
    texts = [chain.text for step in (*judged.steps, judged.solution) if step for chain in step.chains]
    assert family == "implicit" or any(texts)


@pytest.mark.slow
@pytest.mark.bubblewrap
async def test_a_judge_with_code_comes_to_an_end(engine: Engine, box) -> None:
    judged = await judge_with(engine, "genprm", sandbox=box)
    assert all(step.score is not None or step.reason for step in judged.steps)


@pytest.mark.slow
async def test_prompts_are_those_of_the_models_own_template(engine: Engine, smollm2: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(smollm2)

    def templated(messages: list[dict[str, str]]) -> list[int]:
        return list(theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    critic = await load_prm(engine.model_name, engine=engine, family="critic")
    user = {"role": "user", "content": critic.user_turn(PROBLEM, STEPS)}
    assert critic._prompt(PROBLEM, STEPS) == templated([user])
    think = await load_prm(engine.model_name, engine=engine, family="thinkprm")
    user = {"role": "user", "content": think.user_turn(PROBLEM, STEPS)}
    text = engine.tokenizer.decode(think.prompt_ids(PROBLEM, STEPS))
    assert text.removesuffix(think.profile.suffix) == theirs.decode(templated([user]))
    recorded: Any = Going(engine)
    # The released models leave out the marker of the assistant's turn; others are trained with it.
    profile = {**SHORT["genprm"], "assistant_marker": True, "seam": "split"}
    trained = await load_prm(engine.model_name, engine=recorded, family="genprm", with_code=False, profile=profile)
    await trained.judge(PROBLEM, STEPS[:1])
    asked = [
        {"role": "system", "content": prompts.render("genprm/system")},
        {"role": "user", "content": f"{PROBLEM}\n{STEPS[0]}"},
    ]
    begin = templated(asked)
    assert recorded.prompts[0][: len(begin)] == begin
    assert theirs.decode(recorded.prompts[0][len(begin) :]).startswith("<analyze>\nLet's analyze the Paragraph 1")
    spans = ChatSpans(engine.tokenizer)(PROBLEM, STEPS)
    told = {"role": "assistant", "content": f"Step 1: {STEPS[0]}\n\nStep 2: {STEPS[1]}"}
    chat = theirs.apply_chat_template([{"role": "user", "content": PROBLEM}, told], tokenize=False)
    assert theirs.decode(spans.ids) == chat.rstrip()
    policy = Policy(engine, PolicyConfig(model=engine.model_name))
    config = policy.settings
    system = [] if config.system is None else [{"role": "system", "content": config.system}]
    asked = [*system, {"role": "user", "content": policy.user(PROBLEM)}]
    assert list(policy.begin(PROBLEM).ids) == templated(asked)


@pytest.mark.slow
async def test_the_policy_of_search_and_refinement(engine: Engine) -> None:
    policy = Policy(engine, PolicyConfig(model=engine.model_name, max_tokens=48, temperature=0.7))
    row = ProblemRow("k", "f", 1, PROBLEM, "1", "72")
    prm = await load_prm(engine.model_name, engine=engine, family="critic", profile=SHORT["critic"])
    settings = RefineSettings(1, KeepTurn.BEST, Style.ANALYSIS)
    found = await refine(row, settings, policy=policy, prm=prm, grader=TextGrader())
    assert found.turns
    assert all(turn.steps or turn.reason for turn in found.turns)


@pytest.mark.slow
async def test_a_chain_that_repeats_itself_is_ended_with_that_reason(engine: Engine) -> None:
    ids = engine.tokenizer.encode(LOOP * 8)
    done = await engine.generate(ids, Sampling(600))
    assert done.finish is Finish.REPEATED
    assert repeats(done.token_ids)
    assert not repeats(done.token_ids[:-1])
    assert done.sampled_tokens < 300
    policy = Policy(engine, PolicyConfig(model=engine.model_name, max_tokens=600, temperature=0.0, chat=False,
                                         prompt=LOOP * 8))  # fmt: skip
    solution = await policy.finish(policy.begin("p"), 0)
    assert solution.reason == "unfinished: the policy repeated itself"
    looping: Any = Going(engine, LOOP * 8)
    for family, profile in (
        ("critic", {"max_tokens": 600}),
        ("thinkprm", {"max_tokens": 600}),
        ("genprm", {"analysis_tokens": 600, "step_tokens": 600}),
    ):
        code = {"with_code": False} if family == "genprm" else {}
        prm = await load_prm(engine.model_name, engine=looping, family=family, profile=profile, **code)
        judged = await prm.judge(PROBLEM, STEPS[:1])
        chains = judged.solution.chains if judged.solution is not None else judged.steps[0].chains
        assert chains[0].finish is ChainFinish.REPEATED, family
        assert all(step.score is not None or step.reason for step in judged.steps)
