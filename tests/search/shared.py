"""A policy that replies by a rule and a judge that knows the truth, for exact tests of searches."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from pydantic import JsonValue

from genprm.engines.base import Completion, Sampling
from genprm.engines.errors import ContextOverflowError
from genprm.engines.stops import completion
from genprm.engines.tokenizer import Tokenizer
from genprm.grading.answers import boxed_answer
from genprm.grading.grades import Grade
from genprm.types import Chain, ChainFinish, Judgement, Tokens, combine_chains, logit
from tests.prms.scripted import ASSISTANT, byte_tokenizer


@dataclass
class RuleEngine:
    """Goes on as `rule` says of what was written so far and of the seed; `<eos>` ends the turn."""

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


@dataclass
class TruthJudge:
    """Gives each step the score that `score` says."""

    score: Callable[[str], float | None]
    name: str = "truth"
    capacity: int = 8
    judged: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, JsonValue]:
        return {"model": self.name, "capacity": self.capacity}

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        self.judged.append(tuple(steps))
        await asyncio.sleep(0)
        return Judgement(tuple(combine_chains([self.chain(step)]) for step in steps), tokens=Tokens(0, len(steps)))

    def chain(self, step: str) -> Chain:
        score = self.score(step)
        if score is None:
            return Chain(step, (), None, None, None, ChainFinish.NO_VERDICT)
        return Chain(f"about {step}", (), score, logit(score), None, ChainFinish.VERDICT, Tokens(0, 1))

    async def close(self) -> None:
        pass


class TextGrader:
    """Answers are equal when they read the same."""

    async def grade(self, reference: str | None, solutions: Sequence[str]) -> list[Grade]:
        answers = [boxed_answer(solution) for solution in solutions]
        return [Grade(answer, None if reference is None else answer == reference) for answer in answers]
