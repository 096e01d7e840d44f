"""How a conversation is tokenised: the seam after the opening, and begin-of-sequence tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from genprm.config import Mode, PolicyConfig
from genprm.engines.base import Completion, Sampling
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.genprm.protocol import RELEASED, Profile
from genprm.prms.profiles import read_profile
from genprm.search.policy import Policy
from tests.fakes import ScriptedEngine, byte_tokenizer

SHARED = Path(__file__).parents[3] / "shared/data/tokenizers"
ANALYSIS = "We check that it adds up.\n</analyze>\n"
FIRST = "<analyze>\nLet's analyze the Paragraph 1 step by step: "
SECOND = "<analyze>\nLet's analyze the Paragraph 2 step by step: "
JUDGED = "{Yes}$\n</output>\n"
OUT = "<output>\n**Judgement**: $\\boxed"


@dataclass
class Recorder(ScriptedEngine):
    """Keeps the ids of its prompts."""

    ids: list[list[int]] = field(default_factory=list)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        self.ids.append(list(prompt_ids))
        return await super().generate(prompt_ids, sampling, chain=chain)


async def prompts_of(tokenizer: Tokenizer, profile: Profile, replies: Sequence[str]) -> list[list[int]]:
    engine = Recorder.of(*replies)
    engine.tokenizer = tokenizer
    await GenPRM(engine, mode=Mode.ANALYZE, profile=profile).judge("What is 2+2?", ["2+2 = 4", "4+1 = 5"])
    return engine.ids


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["r1", "qwen3"])
@pytest.mark.parametrize("marker", [False, True])
async def test_from_the_second_stage_on_ids_are_those_of_the_whole_text(name: str, marker: bool) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip("the shared tokenizers are not here")
    tokenizer = Tokenizer.from_pretrained(str(SHARED / name))
    profile = replace(RELEASED, assistant_marker=marker)
    prompts = await prompts_of(tokenizer, profile, [ANALYSIS, JUDGED] * 2)
    # The released code sends text, which is tokenised as a whole.
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id] * 2
    for ids in prompts[1::2]:
        text = tokenizer.decode(ids)
        whole = tokenizer.encode(text, special=True)
        assert ids == whole
        assert ids[: len(bos) + 1].count(tokenizer.bos_id or -1) == len(bos)
    assert tokenizer.decode(prompts[3]).endswith(SECOND + ANALYSIS + OUT)
    # Tokenised each by itself, opening and analysis would be other ids.
    assert tokenizer.encode(" We") != tokenizer.encode(" ") + tokenizer.encode("We")


@pytest.mark.parametrize(("seam", "blank"), [("joined", " "), ("split", " "), ("open", "")])
async def test_the_seam_changes_ids_and_never_text(seam: Literal["joined", "open", "split"], blank: str) -> None:
    tokenizer = byte_tokenizer(("Yes", "No", " Yes", " No", " We"))
    replies = [f" {ANALYSIS}" if seam == "open" else ANALYSIS, JUDGED] * 2
    prompts = await prompts_of(tokenizer, Profile(seam=seam), replies)
    texts = [tokenizer.decode(ids) for ids in prompts]
    assert texts[0].endswith(FIRST.rstrip(" ") + blank)
    assert texts[1].endswith(FIRST + ANALYSIS + OUT)
    assert texts[2].endswith(SECOND.rstrip(" ") + blank)
    (we,) = tokenizer.encode(" We")
    assert [ids.count(we) for ids in prompts] == ([0, 0, 0, 0] if seam == "split" else [0, 1, 1, 2])
    # Without re-tokenising, the generated ids stay a prefix of the next prompt.
    grows = prompts[1][: len(prompts[0])] == prompts[0]
    assert grows == (seam != "joined")


async def test_the_released_models_read_two_begin_tokens_and_others_what_their_template_writes() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.adds_bos
    assert tokenizer.bos_id is not None
    replies = [ANALYSIS, JUDGED] * 2
    prompts = await prompts_of(tokenizer, read_profile("GenPRM/GenPRM-7B").profile, replies)  # type: ignore[arg-type]
    assert [ids[:3].count(tokenizer.bos_id) for ids in prompts] == [2] * 4
    tokenizer.adds_bos = False
    prompts = await prompts_of(tokenizer, Profile(), replies)
    assert [ids[:3].count(tokenizer.bos_id) for ids in prompts] == [1] * 4
    prompts = await prompts_of(tokenizer, Profile(bos=3), replies)
    assert [ids[:4].count(tokenizer.bos_id) for ids in prompts] == [3] * 4


async def test_a_model_that_begins_a_turn_with_its_begin_token_keeps_one(smollm2: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(str(smollm2))
    assert not tokenizer.adds_bos
    prompts = await prompts_of(tokenizer, Profile(), [ANALYSIS, JUDGED] * 2)
    text = tokenizer.decode(prompts[0])
    assert text.startswith("<|im_start|>system\nYou are")
    # The critique is the assistant's, as the template has it.
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n" + FIRST.rstrip())
    engine = Recorder.of("4<eos>")
    engine.tokenizer = tokenizer
    policy = Policy(engine, PolicyConfig(chat=False))
    assert not tokenizer.decode(policy.begin("What is 2+2?").ids).startswith("<|im_start|>")
