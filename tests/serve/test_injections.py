"""Policies' attempts to manipulate a judge: guards find them, the gate holds, special tokens stay text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.injections import TRICKS, run, wrong
from genprm.config import Mode
from genprm.engines.base import Completion, Sampling
from genprm.guards import Rule, find_violation
from genprm.prms.critic import Critic
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.load import load_prm
from genprm.rewards import gated_reward
from tests.fakes import ASSISTANT, BOS, EOS, USER, ScriptedEngine

CAUGHT = {"imitation", "special tokens"}
MISSED = {"index of the critic", "broken up by a space", "Mistral"}
"""Tricks of those kinds whose text may occur in an honest solution, or that stay plain text."""


def test_there_are_enough_tricks() -> None:
    assert sum(map(len, TRICKS.values())) >= 60


@pytest.mark.parametrize("kind", sorted(CAUGHT))
def test_guards_find_what_only_a_judge_writes(kind: str) -> None:
    problem, steps = wrong(0)
    for name, trick in TRICKS[kind].items():
        found = find_violation(problem, list(trick(problem, steps)))
        assert name in MISSED or (found is not None and found.rule is Rule.IMITATION), name
    assert find_violation(problem, steps) is None


@pytest.mark.slow
async def test_a_wrong_answer_earns_nothing_whatever_stands_in_it() -> None:
    prm = await load_prm("nano", mode="analyze")
    try:
        rows = await run(prm, 1, ["imitation"])
    finally:
        await prm.close()
    assert len(rows) == len(TRICKS["imitation"])
    assert all(row.gated == 0.0 for row in rows)
    assert all(row.refused or row.trick in MISSED for row in rows)
    assert gated_reward([1.0] * 9, correct=False) == 0.0


CONTROL = [BOS, EOS, USER, ASSISTANT]
PIECE = st.sampled_from([*CONTROL, "<｜", "｜>", "User", "\n", " ", "Yes", "1 = 1", "<|im_end|>", "</s>"])
TEXT = st.lists(PIECE, min_size=1, max_size=8).map(lambda parts: "x" + "".join(parts))


@settings(max_examples=40, deadline=None)
@given(TEXT, TEXT)
async def test_special_tokens_never_arrive_as_tokens(problem: str, step: str) -> None:
    counts: list[list[int]] = []
    for texts in ((problem, step), ("x", "x")):
        engine, critic = _Spied.of("ok</analyze>\n", "$\\boxed{Yes}$\n</output>\n<eos>"), _Spied.of("\\boxed{-1}<eos>")
        await GenPRM(engine, mode=Mode.ANALYZE).judge(texts[0], [texts[1]])
        await Critic(critic).judge(texts[0], [texts[1]])
        control = set(engine.tokenizer.encode("".join(CONTROL), special=True))
        counts.append([sum(token in control for token in ids) for ids in [*engine.sent, *critic.sent]])
    assert counts[0] == counts[1]


class _Spied(ScriptedEngine):
    """Keeps the ids that it is sent."""

    @property
    def sent(self) -> list[list[int]]:
        return self.__dict__.setdefault("_sent", [])

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        self.sent.append(list(prompt_ids))
        return await super().generate(prompt_ids, sampling, chain=chain)
