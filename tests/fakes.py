"""Engines with known replies: by a script that compares requests byte for byte, and by a rule."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from genprm.engines.base import Completion, Finish, Sampling
from genprm.engines.errors import ContextOverflowError
from genprm.engines.stops import completion
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.tokenizer_files import TokenizerFiles

BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '" + USER + "' + m['content'] }}"
    "{% else %}{{ '" + ASSISTANT + "' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)


def byte_tokenizer(words: Sequence[str] = ("Yes", "No", " Yes", " No")) -> Tokenizer:
    """A token for each byte, one for each of `words`, and the control tokens of the DeepSeek distillations."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_tokens([AddedToken(word, normalized=False) for word in words])
    raw.add_special_tokens([BOS, EOS])
    # As in the released tokenizers, the role markers are added tokens that are not flagged special.
    raw.add_tokens([AddedToken(USER, normalized=False), AddedToken(ASSISTANT, normalized=False)])
    return Tokenizer(TokenizerFiles(raw, {"bos_token": BOS, "eos_token": EOS}, TEMPLATE, add_bos=True), name="bytes")


@dataclass(frozen=True, slots=True)
class Call:
    """One request: what was asked, as text."""

    prompt: str
    sampling: Sampling | None
    """None for a question about choices."""


@dataclass
class ScriptedEngine:
    """Answers each generation with the next reply; an engine's own rules (stop strings, limits, ids) hold."""

    replies: deque[str]
    """The model's full text, which is cut at the first stop string. `<eos>` ends a turn."""
    choices: deque[tuple[float, ...]] = field(default_factory=deque)
    """Log-probabilities for the questions about choices, in order; the last one is repeated."""
    tokenizer: Tokenizer = field(default_factory=byte_tokenizer)
    kind: str = "scripted"
    model_name: str = "scripted"
    max_model_len: int = 1 << 20
    capacity: int = 4
    cache_tokens: int | None = None
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def of(cls, *replies: str, choices: Sequence[tuple[float, ...]] = ((-0.1, -2.4),)) -> ScriptedEngine:
        return cls(deque(replies), deque(choices))

    @property
    def prompts(self) -> list[str]:
        """The prompts of the generations, in order."""
        return [call.prompt for call in self.calls if call.sampling is not None]

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        self.calls.append(Call(self.tokenizer.decode(prompt_ids), sampling))
        reply = self.replies.popleft()
        ended = reply.endswith("<eos>")
        ids = self.tokenizer.encode(reply.removesuffix("<eos>"))
        if ended and self.tokenizer.eos_id is not None:
            ids.append(self.tokenizer.eos_id)
        cut = len(ids) > sampling.max_tokens - (not ended)
        done = completion(self.tokenizer, ids[: sampling.max_tokens], sampling.stop, ended=ended and not cut)
        assert done.finish is not Finish.LENGTH or cut, f"the reply {reply!r} neither stops nor ends"
        return done

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        self.calls.append(Call(self.tokenizer.decode(prompt_ids), None))
        return list(self.choices.popleft() if len(self.choices) > 1 else self.choices[0])

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        raise NotImplementedError

    async def close(self) -> None:
        pass


@dataclass
class RuleEngine:
    """Continues as `rule` says, given the text so far and the seed; `<eos>` ends the turn."""

    rule: Callable[[str, int], str]
    tokenizer: Tokenizer = field(default_factory=cache(byte_tokenizer))
    kind: str = "rule"
    model_name: str = "rule"
    max_model_len: int = 1 << 20
    capacity: int = 8
    cache_tokens: int | None = None
    prompts: list[str] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    sampled: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        prompt = self.tokenizer.decode(prompt_ids)
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        reply = self.rule(prompt.rpartition(ASSISTANT)[2], sampling.seed or 0)
        if reply == "<overflow>":
            raise ContextOverflowError("too long")
        ended = reply.endswith("<eos>")
        ids = self.tokenizer.encode(reply.removesuffix("<eos>"))
        cut = len(ids) > sampling.max_tokens
        if ended and not cut:
            ids.append(self.tokenizer.eos_id or 0)
        done = completion(self.tokenizer, ids[: sampling.max_tokens], sampling.stop, ended=ended and not cut)
        self.sampled += done.sampled_tokens
        return done

    async def choice_logprobs(self, *args: object, **kwargs: object) -> list[float]:
        raise NotImplementedError

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        raise NotImplementedError

    async def close(self) -> None:
        pass
