"""Discriminative PRMs: one forward pass over a solution gives a score for every step.

`formats` has the format of each family; this module runs them, and has `load_discriminative`.

* transformers: every family, many solutions in one pass.
* vLLM in process: token pooling for the heads that vLLM serves (Qwen2.5-Math-PRM, token classification), and
  next-token log-probabilities with its prefix cache for the families that answer `+` or `-`.
* servers: the same through `/pooling` and `/v1/completions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from genprm.engines import EngineKind, choose_engine, load_engine
from genprm.engines.base import Engine, RunsModel
from genprm.engines.errors import ContextOverflowError
from genprm.engines.weights import check_checkpoint
from genprm.prms.base import PRMError, model_facts
from genprm.prms.batching import Batcher
from genprm.prms.calls import chain_name, check_steps
from genprm.prms.discriminative.formats import (
    FORMATS,
    DiscriminativeProfile,
    Format,
    Head,
    Layout,
    SolutionWriter,
    detect_format,
    names_format,
)
from genprm.prms.discriminative.pooling import pooling_scorer
from genprm.prms.hub import read_config
from genprm.prms.implicit.logprobs import BATCH_TOKENS
from genprm.prms.scored import scored_step
from genprm.types import DEFAULT_THRESHOLD, Judgement, Tokens

if TYPE_CHECKING:
    from pydantic import JsonValue

CAPACITY = 64
"""Solutions in flight that fill the batches."""

Scorer = Callable[[Layout], Awaitable[list[float]]]
"""Computes the log-odds of every step of a solution."""


class DiscriminativePRM:
    """Judges steps with a model that scores them directly. It writes no text, so there are no chains.

    Args:
        engine: the model, loaded as its family needs: see `load_discriminative`.
        format: the format it was trained with.
        profile: the variant of the format.
        threshold: the lowest score of a right step.
        name: name in reports; by default the engine's model name.
        owned: whether `close` closes the engine.

    Raises:
        PRMError: the tokenizer lacks what the format needs, or the engine cannot run this family.
        EngineError: the tokenizer has no usable chat template.
    """

    def __init__(
        self,
        engine: Engine,
        format: Format,
        *,
        profile: DiscriminativeProfile = DiscriminativeProfile(),
        threshold: float = DEFAULT_THRESHOLD,
        name: str | None = None,
        owned: bool = False,
    ) -> None:
        self.engine = engine
        self.format = format
        self.family = format.family
        self.profile = profile
        self.writer = SolutionWriter(format, engine.tokenizer, profile)
        self.threshold = threshold
        self.name = name or engine.model_name
        self.capacity = CAPACITY
        self._owned = owned
        self._score = _scorer(engine, self.writer)

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges every step of a solution; see `genprm.prms.base.PRM`. Nothing is sampled: `seed` has no effect."""
        check_steps(steps)
        layout = self.writer.layout(problem, steps)
        if len(layout.ids) > self.engine.max_model_len:
            raise ContextOverflowError(
                f"a solution of {len(layout.ids)} tokens does not fit the context of {self.engine.max_model_len} tokens"
            )
        log_odds = await self._score(layout)
        if len(log_odds) != len(steps):
            raise PRMError(f"{self.name!r} gave {len(log_odds)} scores for {len(steps)} steps")
        scored = tuple(scored_step(value, self.threshold) for value in log_odds)
        return Judgement(scored, self.threshold, Tokens(prompt=len(layout.ids)))

    @property
    def facts(self) -> dict[str, JsonValue]:
        """See `genprm.prms.base.PRM`."""
        return model_facts(self, self.profile, self.engine, family=self.family)

    async def close(self) -> None:
        """Closes the engine if it was opened for this judge; see `genprm.prms.base.PRM`."""
        if self._owned:
            await self.engine.close()


async def load_discriminative(
    name_or_path: str,
    *,
    family: str | None = None,
    engine: EngineKind | Engine = "auto",
    base_urls: Sequence[str] = (),
    profile: DiscriminativeProfile = DiscriminativeProfile(),
    threshold: float = DEFAULT_THRESHOLD,
    revision: str | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    dtype: str = "auto",
    **engine_options: Any,
) -> DiscriminativePRM:
    """Loads a discriminative PRM.

    Args:
        name_or_path: a folder, or a model id such as `Qwen/Qwen2.5-Math-PRM-7B`.
        family: its format; by default from its configuration and name.
        engine: an engine's name, or an open engine with the model (which stays open). `auto` takes
            vLLM only for what vLLM serves.
        base_urls: servers with the model.
        profile: the variant of the format.
        threshold: the lowest score of a right step.
        revision: revision of the model on the Hub.
        tokenizer: folder or id of the tokenizer, if it is not the model's.
        seed: the engine's seed.
        dtype: type of the weights.
        **engine_options: passed to the engine.

    Raises:
        PRMError: the family is unknown, or the engine cannot run it.
        EngineError: the engine or the model does not load.
    """
    if family is not None and family not in FORMATS:
        raise PRMError(f"unknown family {family!r}: use one of {', '.join(FORMATS)}")
    config = await asyncio.to_thread(read_config, name_or_path, revision)
    format = detect_format(config, name_or_path) if family is None else FORMATS[family]
    if format is None:
        raise PRMError(
            f"cannot tell the family of {name_or_path!r} from its configuration or its name: pass one of "
            f"{', '.join(FORMATS)} as the family"
        )
    owned = isinstance(engine, str)
    if isinstance(engine, str):
        kind = choose_engine(engine, base_urls)
        if engine == "auto" and kind == "vllm" and format.head is Head.VALUE:
            kind = "transformers"
        if kind == "vllm" and format.head is Head.TWO_CLASSES and not names_format(config, format):
            # vLLM takes the class from the configuration, and pools hidden states if it has no head.
            raise PRMError(
                f"the configuration of {name_or_path!r} names {config.get('architectures')!r}, which has no "
                f"{format.head} head: a model of the family {format.family!r} cannot be served from it"
            )
        if kind == "vllm":
            await asyncio.to_thread(check_checkpoint, name_or_path, revision, _class(format))
        engine = await load_engine(
            kind,
            name_or_path,
            base_urls=base_urls,
            revision=revision,
            tokenizer=tokenizer or (name_or_path if base_urls else None),
            seed=seed,
            dtype=dtype,
            **(_engine_options(kind, format) | engine_options),
        )
    try:
        return DiscriminativePRM(engine, format, profile=profile, threshold=threshold, name=name_or_path, owned=owned)
    except BaseException:
        if owned:
            await engine.close()
        raise


def _engine_options(kind: EngineKind, format: Format) -> dict[str, Any]:
    """How an engine must load the model of a family."""
    if kind == "transformers":
        return {"auto_class": _class(format) or format.model_class}
    if kind == "vllm":
        if format.head is Head.VALUE:
            raise PRMError(f"vLLM does not serve the value head of {format.family!r}: use the transformers engine")
        if format.head is Head.TWO_CLASSES:
            # Pooling returns nothing for positions in the prefix cache.
            return {"runner": "pooling", "enable_prefix_caching": False}
    return {}


def _class(format: Format) -> Any:
    """The class of the family's models, if it is one of ours."""
    from genprm.prms import forward

    return getattr(forward, format.model_class, None)


def _scorer(engine: Engine, writer: SolutionWriter) -> Scorer:
    """The best scorer for an engine."""
    head = writer.format.head
    if isinstance(engine, RunsModel):
        from genprm.prms.forward import step_log_odds

        async def work(rows: list[Layout]) -> list[list[float]]:
            return await engine.run_model(partial(step_log_odds, head=head, choices=writer.choices, rows=rows))

        return Batcher[Layout, list[float]](work, lambda layout: len(layout.ids), BATCH_TOKENS).ask
    if writer.choices is not None:
        return partial(_next_token_scores, engine, writer.choices)
    if head is Head.TWO_CLASSES:
        return pooling_scorer(engine, writer)
    raise PRMError(f"{type(engine).__name__} does not serve a value head: use the transformers engine")


async def _next_token_scores(engine: Engine, choices: tuple[int, int], layout: Layout) -> list[float]:
    """Scores two next tokens at every position."""
    chain = chain_name("score", *layout.ids)
    # The first request fills the engine's cache with the whole solution; the others find their prefix there.
    pairs = [await engine.choice_logprobs(layout.ids[: layout.positions[-1] + 1], choices, chain=chain)]
    rest = (engine.choice_logprobs(layout.ids[: p + 1], choices, chain=chain) for p in layout.positions[:-1])
    pairs = [*await asyncio.gather(*rest), *pairs]
    return [good - bad for good, bad in pairs]
