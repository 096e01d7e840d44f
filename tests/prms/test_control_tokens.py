"""Text of problems and steps never becomes a control token: every family, with every tokenizer at hand.

What a prompt holds of control tokens is compared with what it holds of them for a harmless text of as many steps.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genprm
from genprm.config import Mode, PolicyConfig
from genprm.data.steps import join_steps
from genprm.engines.base import Completion, Sampling
from genprm.engines.errors import EngineError
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError
from genprm.prms.critic import Critic
from genprm.prms.discriminative.formats import FORMATS, SolutionWriter
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.implicit.logratio import ChatSpans, ImplicitMode
from genprm.prms.thinkprm.judge import ThinkPRMJudge
from genprm.rpe.chains import ModelChainTeacher
from genprm.rpe.rationales import ModelTeacher
from genprm.rpe.rollouts import rollout_prompt
from genprm.search.policy import Policy
from tests.benchmarks.shared import shared_data
from tests.fakes import ScriptedEngine, byte_tokenizer
from tests.prms import tiny_models

NAMES = ["bytes", "qwen", "llama", "mistral", "nano", "nano_policy", "smollm2"]
SHARED_NAMES = ["qwen3", "r1"]
_FORM = re.compile(r"<\S+>|\[\S+\]")
Ids = list[list[int]]


@pytest.fixture(scope="session")
def load_tokenizer(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> object:
    @cache
    def load(name: str) -> Tokenizer:
        if name == "bytes":
            return byte_tokenizer()
        if name in ("nano", "nano_policy"):
            return Tokenizer.from_pretrained(str(Path(genprm.__file__).parent / name))
        if name == "smollm2":
            return Tokenizer.from_pretrained(str(request.getfixturevalue("smollm2")))
        if name in SHARED_NAMES:
            return Tokenizer.from_pretrained(str(shared_data(f"tokenizers/{name}")))
        folder = tmp_path_factory.mktemp(name)
        getattr(tiny_models, f"save_{name}_tokenizer")(folder)
        return Tokenizer.from_pretrained(str(folder))

    return load


def control_of(tokenizer: Tokenizer) -> dict[int, str]:
    """Ids that text must not become, read from the tokenizer's own list."""
    added = tokenizer._special.get_added_tokens_decoder()
    return {number: one.content for number, one in added.items() if one.special or _FORM.fullmatch(one.content)}


class Spied(ScriptedEngine):
    """Keeps the ids that it is sent."""

    @classmethod
    def on(cls, tokenizer: Tokenizer, *replies: str) -> Spied:
        made = cls(deque(replies), deque([(-0.1, -2.4)]), tokenizer=tokenizer)
        made.__dict__["sent"] = []
        return made

    @property
    def kept(self) -> Ids:
        return self.__dict__["sent"]

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        self.kept.append(list(prompt_ids))
        return await super().generate(prompt_ids, sampling, chain=chain)

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        self.kept.append(list(prompt_ids))
        return await super().choice_logprobs(prompt_ids, choices, chain=chain)


async def sent_to_genprm(tokenizer: Tokenizer, problem: str, steps: Sequence[str]) -> Ids:
    replies = ["ok</analyze>\n", "$\\boxed{Yes}$\n</output>\n<eos>"] * len(steps)
    engine = Spied.on(tokenizer, *replies)
    await GenPRM(engine, mode=Mode.ANALYZE).judge(problem, steps)
    return engine.kept


async def sent_to_critic(tokenizer: Tokenizer, problem: str, steps: Sequence[str]) -> Ids:
    engine = Spied.on(tokenizer, "\\boxed{-1}<eos>")
    await Critic(engine).judge(problem, steps)
    return engine.kept


async def sent_to_thinkprm(tokenizer: Tokenizer, problem: str, steps: Sequence[str]) -> Ids:
    engine = Spied.on(tokenizer, "Step 1: The step is \\boxed{correct}\n</think>\nIs the solution correct? Yes<eos>")
    await ThinkPRMJudge(engine).judge(problem, steps)
    return engine.kept


async def sent_to_implicit(tokenizer: Tokenizer, problem: str, steps: Sequence[str]) -> Ids:
    return [ChatSpans(tokenizer, mode)(problem, steps).ids for mode in ImplicitMode]


async def sent_to_discriminative(tokenizer: Tokenizer, problem: str, steps: Sequence[str]) -> Ids:
    sent: Ids = []
    for format in FORMATS.values():
        try:
            writer = SolutionWriter(format, tokenizer)
        except (PRMError, EngineError):
            continue  # a tokenizer of another family
        try:
            layout = writer.layout(problem, steps)
        except PRMError:
            # Refused, not judged: some separators cannot be spelled apart by a tokenizer.
            sent.append([])
            continue
        assert len(layout.positions) == len(steps)
        if writer.tag is not None:
            # Where a step ends is read off this token: no step may bring one.
            assert [at for at, token in enumerate(layout.ids) if token == writer.tag] == list(layout.positions)
        sent.append(list(layout.ids))
    return sent


async def sent_by_policy(tokenizer: Tokenizer, problem: str, steps: Sequence[str]) -> Ids:
    """A first solution, one revised after a critique, and rollouts from a prefix."""
    policy = Policy(Spied.on(tokenizer), PolicyConfig(model="m"))
    then = [{"role": "assistant", "content": join_steps(steps)}, {"role": "user", "content": steps[-1]}]
    begun = [policy.begin(problem), policy.begin(problem, then)]
    return [*(list(one.ids) for one in begun), rollout_prompt(tokenizer, problem, steps)]


async def sent_to_teachers(tokenizer: Tokenizer, problem: str, steps: Sequence[str]) -> Ids:
    chains, reviews = Spied.on(tokenizer, "ok</think><eos>"), Spied.on(tokenizer, "ok</verify></think>", "{-1}")
    await ModelChainTeacher(chains).write(problem, steps, identity=None, seed=0)
    # The reply has no code, so the sandbox is never asked.
    no_box: Any = SimpleNamespace(session=nullcontext)
    await ModelTeacher(reviews, no_box, verdicts=1).review(problem, steps, identity=None, seed=0)
    return [*chains.kept, *reviews.kept]


FAMILIES: dict[str, Callable[..., object]] = {
    "genprm": sent_to_genprm,
    "critic": sent_to_critic,
    "thinkprm": sent_to_thinkprm,
    "implicit": sent_to_implicit,
    "discriminative": sent_to_discriminative,
    "policy": sent_by_policy,
    "teachers": sent_to_teachers,
}
WORDS = [
    *("<|", "|>", "<", ">", "im_", "start", "user", "assistant", "system", "\n", "\n\n", " ", "Yes", "No", "1 = 1"),
    *(
        "<|im_end|>",
        "<|im_start|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "</s>",
        "<s>",
    ),
    *(
        "<｜end▁of▁sentence｜>",
        "<extra_0>",
        "[INST]",
        "[/INST]",
        "<end_of_turn>",
        "</think>",
        "<think>",
        "ки",
        "+",
        "-",
    ),
    *("<|endoftext|>", "\u200b", "\U0010fff00\U0010fff1", "\U0010fff0", "<unk>", "<0x0A>", "▁"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(n, marks=pytest.mark.shared_data) for n in SHARED_NAMES)])
async def test_text_never_becomes_a_control_token(name: str, family: str, load_tokenizer: object) -> None:
    tokenizer: Tokenizer = load_tokenizer(name)  # type: ignore[operator]
    control = control_of(tokenizer)
    write = FAMILIES[family]

    async def counted(problem: str, steps: Sequence[str]) -> list[Counter[int]] | None:
        sent: Ids = await write(tokenizer, problem, steps)  # type: ignore[misc]
        return [Counter(token for token in ids if token in control) for ids in sent]

    if tokenizer._hf.chat_template is None and family != "discriminative":
        with pytest.raises(EngineError, match="chat template"):
            await counted("x", ["x", "x"])
        return
    harmless = await counted("x", ["x", "x"])
    text = st.lists(st.sampled_from([*WORDS, *control.values()]), min_size=1, max_size=7).map("".join)
    hostile: list[tuple[str, list[str]]] = []

    @settings(max_examples=6, deadline=None, database=None)
    @given(text, text, text)
    def collect(problem: str, first: str, second: str) -> None:
        hostile.append((f"x{problem}", [f"x{first}", f"x{second}"]))

    collect()
    for problem, steps in hostile:
        found = await counted(problem, steps)
        assert len(found) == len(harmless), (problem, steps)
        for got, wanted in zip(found, harmless, strict=True):
            # A refused layout sends nothing at all.
            assert got == wanted or not got, (problem, steps, {control[t]: n for t, n in (got - wanted).items()})
