"""Implicit PRMs such as EurusPRM: a step's reward is the log-ratio of its likelihoods under PRM and reference model.

`logratio` has the arithmetic, `logprobs` the models, `load` opens both. The two models see the same tokens once each,
and need not be in memory together: `ImplicitPRM.judge_rows` runs one after the other, and `ImplicitPRM.prepare` stores
the reference's results on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from genprm.concurrency import gather
from genprm.engines.base import Engine
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError, model_facts
from genprm.prms.calls import check_steps
from genprm.prms.implicit.logprobs import LogprobCache, LogprobModel
from genprm.prms.implicit.logratio import (
    DEFAULT_BETA,
    NO_REFERENCE,
    ChatSpans,
    ImplicitMode,
    ImplicitProfile,
    ImplicitRewards,
    Reduce,
    Reward,
    Spans,
    rewards,
)
from genprm.prms.scored import scored_step
from genprm.types import DEFAULT_THRESHOLD, Judgement, Tokens

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = [
    "ImplicitMode",
    "ImplicitPRM",
    "ImplicitProfile",
    "ImplicitRewards",
    "LogprobCache",
    "LogprobModel",
    "Reduce",
    "Reward",
]

CAPACITY = 64
"""Solutions in flight that fill the batches."""
_IN_FLIGHT = 4 * CAPACITY
_PREPARED = 4096
"""Solutions that `ImplicitPRM.prepare` keeps in memory at once."""


class ImplicitPRM:
    """Judges steps by the log-ratio of two causal language models.

    The score of a step is the sigmoid of its reward, and `log_odds` is the reward itself: with `Reward.CUMULATIVE`, q
    at the end of the step. Values are as small as beta: 0.503 is a confident score.

    Args:
        model: the PRM.
        reference: its reference model. Without one, rewards are log-probabilities times beta, so that every score is
            below 0.5.
        tokenizer: the PRM's tokenizer.
        beta: the scale of rewards.
        mode: where steps end.
        reward: which reward is the score.
        threshold: the lowest score of a right step.
        name: name in reports; by default the model's.

    Raises:
        PRMError: the tokenizer or an argument is not suitable.
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
        try:
            mode, reward = ImplicitMode(mode), Reward(reward)
        except ValueError as error:
            raise PRMError(
                f"{error}: mode is one of {', '.join(ImplicitMode)}, reward one of {', '.join(Reward)}"
            ) from None
        self.profile = ImplicitProfile(NO_REFERENCE if reference is None else reference.name, beta, mode, reward)
        self.model = model
        self.reference = reference
        self.tokenizer = tokenizer
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

        The reference scores all of them and is closed, then the PRM. A model that was already open stays open.

        Args:
            rows: problem and steps of each solution.

        Returns:
            For each row its judgement or its exception: one bad row does not stop the others.
        """
        written: list[Spans | Exception] = []
        for problem, steps in rows:
            try:
                written.append(self._write(problem, steps))
            except PRMError as error:
                written.append(error)
        bases = await self._in_turn(self.reference, written)
        # Rows that failed with the reference are skipped.
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

    async def prepare(self, rows: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Scores these solutions with the reference in advance, and closes it.

        The results are in the cache when the solutions are judged, so that the two models are never in memory together.
        Without a cache this does nothing. A row that fails here fails again, with its reason, when it is judged.

        Args:
            rows: problem and steps of each solution.

        Raises:
            EngineError: the reference does not open.
        """
        if self.reference is None or self.reference.cache is None:
            return
        source = iter(rows)
        try:
            while chunk := list(islice(source, _PREPARED)):
                written: list[Spans] = []
                for problem, steps in chunk:
                    with suppress(PRMError):
                        written.append(self._write(problem, steps))
                if any(not self.reference.knows(spans.ids, spans.start) for spans in written):
                    await self.reference.open()
                    await self._answers(self.reference, written)
        finally:
            await self.reference.close()

    async def open(self) -> None:
        """Opens both models now instead of with the first solution.

        Raises:
            EngineError: one of them does not open.
        """
        for model in (self.model, self.reference):
            if model is not None:
                await model.open()

    @property
    def engine(self) -> Engine | None:
        """The PRM's engine, while it is open."""
        return self.model.engine

    @property
    def facts(self) -> dict[str, JsonValue]:
        """See `genprm.prms.base.PRM`."""
        return model_facts(self, self.profile, self.engine)

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
        """Log-probabilities of all rows by one model, which is then closed; exceptions are passed through."""
        if model is None:
            return [row if isinstance(row, Exception) else [0.0] * (len(row.ids) - row.start) for row in rows]
        try:
            return await self._answers(model, rows)
        finally:
            await model.close()

    async def _answers(self, model: LogprobModel, rows: Sequence[Spans | Exception]) -> list[list[float] | Exception]:
        answers: dict[int, list[float] | Exception] = {}
        # Longest first: neighbours in the queue have similar lengths, and out-of-memory errors come first.
        waiting = iter(sorted(range(len(rows)), key=lambda i: _length(rows[i]), reverse=True))

        async def work() -> None:
            for index in waiting:
                row = rows[index]
                try:
                    answers[index] = row if isinstance(row, Exception) else await model.logprobs(row.ids, row.start)
                except Exception as error:
                    answers[index] = error

        await gather(work() for _ in range(min(len(rows), _IN_FLIGHT)))
        return [answers[index] for index in range(len(rows))]

    def _rewards(self, spans: Spans, own: Sequence[float], base: Sequence[float]) -> ImplicitRewards:
        return rewards(spans, [a - b for a, b in zip(own, base, strict=True)], self.profile.beta)

    def _judgement(self, spans: Spans, found: ImplicitRewards) -> Judgement:
        values = found.cumulative if self.profile.reward is Reward.CUMULATIVE else found.single
        steps = tuple(scored_step(value, self.threshold) for value in values)
        return Judgement(steps, self.threshold, Tokens(prompt=len(spans.ids)))


def _length(row: Spans | Exception) -> int:
    return 0 if isinstance(row, Exception) else len(row.ids)
