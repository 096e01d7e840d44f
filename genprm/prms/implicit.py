"""Implicit PRMs such as EurusPRM: a step's reward is how much likelier the PRM finds it than its reference model does.

`genprm.prms.logratio` has the arithmetic, `genprm.prms.logprobs` the models. The two models see the same tokens once
each, and need never be in memory together: `ImplicitPRM.judge_rows` takes one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from genprm.engines import EngineKind, choose_engine, load_engine
from genprm.engines.base import Engine
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError
from genprm.prms.calls import check_steps
from genprm.prms.logprobs import LogprobCache, LogprobModel, default_cache, weights_name
from genprm.prms.logratio import (
    DEFAULT_BETA,
    ChatSpans,
    ImplicitDefaults,
    ImplicitMode,
    ImplicitRewards,
    Reduce,
    Reward,
    Spans,
    detect,
    rewards,
)
from genprm.prms.scored import scored_step
from genprm.types import DEFAULT_THRESHOLD, Judgement, Tokens

__all__ = [
    "ImplicitDefaults",
    "ImplicitMode",
    "ImplicitPRM",
    "ImplicitRewards",
    "LogprobCache",
    "LogprobModel",
    "Reduce",
    "Reward",
    "detect",
    "load_implicit",
]

CAPACITY = 64
"""Solutions in flight from which on batches are full."""
_IN_FLIGHT = 4 * CAPACITY


class ImplicitPRM:
    """Judges steps by the log-ratio of two causal language models.

    The score of a step is the sigmoid of its reward, and `log_odds` is the reward itself: with `Reward.CUMULATIVE`, q
    at the end of the step. Values are small, as beta is: a score of 0.503 is a strong opinion.

    Args:
        model: the PRM.
        reference: the model it was trained against. Without one, rewards are plain log-probabilities times beta, which
            are below zero all of them.
        tokenizer: the PRM's.
        beta: the scale of rewards.
        mode: where steps end.
        reward: which reward is the score.
        threshold: the score from which a step is right.
        name: for reports; by default the model's.

    Raises:
        PRMError: the tokenizer or the arguments do not fit.
        EngineError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        model: LogprobModel,
        reference: LogprobModel | None,
        tokenizer: Tokenizer,
        *,
        beta: float = DEFAULT_BETA,
        mode: ImplicitMode | str = ImplicitMode.CLEAN,
        reward: Reward | str = Reward.CUMULATIVE,
        threshold: float = DEFAULT_THRESHOLD,
        name: str | None = None,
    ) -> None:
        if not beta > 0:
            raise PRMError(f"beta must be above 0, not {beta!r}")
        try:
            mode, reward = ImplicitMode(mode), Reward(reward)
        except ValueError as error:
            raise PRMError(
                f"{error}: mode is one of {', '.join(ImplicitMode)}, reward one of {', '.join(Reward)}"
            ) from None
        self.model = model
        self.reference = reference
        self.tokenizer = tokenizer
        self.beta = beta
        self.reward = reward
        self.threshold = threshold
        self.name = name or model.name
        self.capacity = CAPACITY
        self._spans = ChatSpans(tokenizer, mode)

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges every step of a solution; see `genprm.prms.base.PRM`. Nothing is sampled: `seed` has no effect."""
        spans = self._write(problem, steps)
        return self._judgement(spans, await self._sum_up(spans))

    async def rewards(self, problem: str, steps: Sequence[str]) -> ImplicitRewards:
        """The rewards of a solution's steps, single and cumulative.

        Raises:
            PRMError, ContextOverflowError, EngineError: as `judge`.
        """
        return await self._sum_up(self._write(problem, steps))

    async def judge_rows(self, rows: Sequence[tuple[str, Sequence[str]]]) -> list[Judgement | Exception]:
        """Judges many solutions with one model in memory at a time.

        The reference scores all of them and is closed, then the PRM does. A model that was open before stays open.

        Args:
            rows: problem and steps of each solution.

        Returns:
            For each row its judgement, or what went wrong with it: one bad row does not stop the others.
        """
        written: list[Spans | Exception] = []
        for problem, steps in rows:
            try:
                written.append(self._write(problem, steps))
            except PRMError as error:
                written.append(error)
        bases = await self._in_turn(self.reference, written)
        # What the reference failed at, the PRM is not asked about.
        left = [base if isinstance(base, Exception) else spans for spans, base in zip(written, bases, strict=True)]
        owns = await self._in_turn(self.model, left)
        judged: list[Judgement | Exception] = []
        for spans, own, base in zip(written, owns, bases, strict=True):
            match spans, base, own:
                case Spans(), list(), list():
                    judged.append(self._judgement(spans, self._rewards(spans, own, base)))
                case _:
                    judged.append(next(value for value in (spans, base, own) if isinstance(value, Exception)))
        return judged

    async def open(self) -> None:
        """Opens both models now rather than with the first solution.

        Raises:
            EngineError: one of them does not open.
        """
        for model in (self.model, self.reference):
            if model is not None:
                await model.open()

    async def close(self) -> None:
        """Closes what was opened for this judge; see `genprm.prms.base.PRM`."""
        await self.model.close()
        if self.reference is not None:
            await self.reference.close()

    def _write(self, problem: str, steps: Sequence[str]) -> Spans:
        check_steps(steps)
        return self._spans(problem, steps)

    async def _sum_up(self, spans: Spans) -> ImplicitRewards:
        models = [model for model in (self.model, self.reference) if model is not None]
        own, *base = await asyncio.gather(*(model.logprobs(spans.ids, spans.start) for model in models))
        return self._rewards(spans, own, base[0] if base else [0.0] * len(own))

    async def _in_turn(
        self, model: LogprobModel | None, rows: Sequence[Spans | Exception]
    ) -> list[list[float] | Exception]:
        """Log-probabilities of all rows by one model, which is closed afterwards; errors go through as they are."""
        if model is None:
            return [row if isinstance(row, Exception) else [0.0] * (len(row.ids) - row.start) for row in rows]
        answers: dict[int, list[float] | Exception] = {}
        # Longest first: neighbours in the queue are of one length, and what needs most memory fails first.
        order = sorted(range(len(rows)), key=lambda i: _length(rows[i]), reverse=True)
        waiting = iter(order)

        async def work() -> None:
            for index in waiting:
                row = rows[index]
                try:
                    answers[index] = row if isinstance(row, Exception) else await model.logprobs(row.ids, row.start)
                except Exception as error:
                    answers[index] = error

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(rows), _IN_FLIGHT)):
                    group.create_task(work())
        finally:
            await model.close()
        return [answers[index] for index in range(len(rows))]

    def _rewards(self, spans: Spans, own: Sequence[float], base: Sequence[float]) -> ImplicitRewards:
        return rewards(spans, [a - b for a, b in zip(own, base, strict=True)], self.beta)

    def _judgement(self, spans: Spans, found: ImplicitRewards) -> Judgement:
        values = found.cumulative if self.reward is Reward.CUMULATIVE else found.single
        steps = tuple(scored_step(value, self.threshold) for value in values)
        return Judgement(steps, self.threshold, Tokens(prompt=len(spans.ids)))


async def load_implicit(
    name_or_path: str,
    *,
    reference: str | Engine | Literal["auto"] | None = "auto",
    engine: EngineKind | Engine = "auto",
    base_urls: Sequence[str] = (),
    reference_urls: Sequence[str] = (),
    beta: float | None = None,
    mode: ImplicitMode | str = ImplicitMode.CLEAN,
    reward: Reward | str = Reward.CUMULATIVE,
    threshold: float = DEFAULT_THRESHOLD,
    cache: Path | Literal["auto"] | None = "auto",
    revision: str | None = None,
    reference_revision: str | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    dtype: str = "auto",
    lazy: bool = False,
    **engine_options: Any,
) -> ImplicitPRM:
    """Loads an implicit PRM and its reference model; `close` ends both.

    Args:
        name_or_path: a folder, or a model id such as `PRIME-RL/EurusPRM-Stage2`.
        reference: the model it was trained against: a folder, a model id or an engine that is open; `auto` knows it for
            the released models. None uses log-probabilities without a reference.
        engine: an engine's name, used for both models, or an engine that is open already with the PRM in it.
        base_urls: servers with the PRM.
        reference_urls: servers with the reference model.
        beta: the scale of rewards; by default what the model is used with.
        mode: where steps end.
        reward: which reward is the score.
        threshold: the score from which a step is right.
        cache: folder in which the reference's log-probabilities are kept; `auto` is the user's cache folder, None
            keeps none.
        revision: the PRM's revision on the Hub.
        reference_revision: the reference's.
        tokenizer: folder or id of the PRM's tokenizer, where it is not the model's.
        seed: the engines' seed.
        dtype: type of the weights of both models.
        lazy: open the models with the first solution that needs them, as `ImplicitPRM.judge_rows` does in turn.
        **engine_options: passed to both engines.

    Raises:
        PRMError: the reference is not known, or an argument does not fit.
        EngineError: an engine or a model does not load.
    """
    known = detect({}, name_or_path)
    if reference == "auto":
        if known is None:
            raise PRMError(
                f"which model was {name_or_path!r} trained against? Pass it as the reference; None scores without one"
            )
        reference = known.reference
    if beta is None:
        beta = known.beta if known is not None else DEFAULT_BETA
    if isinstance(engine, str):
        text = await asyncio.to_thread(Tokenizer.from_pretrained, tokenizer or name_or_path, revision)
    else:
        text = engine.tokenizer
    # Two models share a GPU, unless they take turns.
    alone = lazy or not isinstance(engine, str) or not isinstance(reference, str) or base_urls or reference_urls
    vllm_options = {
        "gpu_memory_utilization": 0.9 if alone else 0.45,
        # vLLM holds the logits of all prompt tokens of a step at once, uncounted when it plans its memory.
        "max_num_batched_tokens": 2048,
    }

    def opening(
        model: str, urls: Sequence[str], commit: str | None, own_tokenizer: str | None
    ) -> Callable[[], Awaitable[Engine]]:
        # A server holds one model: what has no server of its own is loaded into this process.
        kind: EngineKind = "openai" if urls else engine if isinstance(engine, str) and engine != "openai" else "auto"
        kind = choose_engine(kind, urls)
        return partial(
            load_engine,
            kind,
            model,
            base_urls=urls,
            revision=commit,
            tokenizer=own_tokenizer or (model if urls else None),
            seed=seed,
            dtype=dtype,
            **((vllm_options if kind == "vllm" else {}) | engine_options),
        )

    own = LogprobModel(
        opening(name_or_path, base_urls, revision, tokenizer) if isinstance(engine, str) else engine,
        name=name_or_path,
        tokenizer=text,
    )
    base: LogprobModel | None = None
    if reference is not None:
        source = reference if isinstance(reference, str) else reference.model_name
        base = LogprobModel(
            opening(reference, reference_urls, reference_revision, None) if isinstance(reference, str) else reference,
            # The same weights in another engine or precision differ by as much as the models that are compared may.
            name=f"{weights_name(source, reference_revision)} {engine if isinstance(engine, str) else 'open'} {dtype}",
            tokenizer=text,
            cache=LogprobCache(default_cache() if cache == "auto" else cache) if cache is not None else None,
        )
    prm = ImplicitPRM(own, base, text, beta=beta, mode=mode, reward=reward, threshold=threshold, name=name_or_path)
    if not lazy:
        try:
            await prm.open()
        except BaseException:
            await prm.close()
            raise
    return prm


def _length(row: Spans | Exception) -> int:
    return 0 if isinstance(row, Exception) else len(row.ids)
