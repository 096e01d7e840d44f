"""Opens an implicit PRM and its reference model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from genprm.engines import EngineKind, choose_engine, load_engine
from genprm.engines.base import Engine
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError
from genprm.prms.implicit.judge import ImplicitPRM
from genprm.prms.implicit.logprobs import LogprobCache, LogprobModel, default_cache, weights_name
from genprm.prms.implicit.logratio import NO_REFERENCE, ImplicitProfile, detect_implicit
from genprm.types import DEFAULT_THRESHOLD


@dataclass(frozen=True, slots=True)
class Source:
    """One of the two models, and where it runs."""

    model: str | Engine
    """A folder, a model id, or an open engine with the model."""
    base_urls: Sequence[str] = ()
    """Servers with the model."""
    revision: str | None = None
    """Its revision on the Hub."""
    tokenizer: str | None = None
    """Folder or id of its tokenizer, if it is not the model's."""
    dtype: str = "auto"
    """Type of its weights; `benchmarks/README.md` has speed and accuracy of bfloat16 and int8 on a CPU."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model if isinstance(self.model, str) else self.model.model_name


async def load_implicit(
    prm: Source,
    reference: Source | None = None,
    *,
    name: str | None = None,
    profile: ImplicitProfile | None = None,
    engine: EngineKind = "auto",
    threshold: float = DEFAULT_THRESHOLD,
    cache: Path | Literal["auto"] | None = "auto",
    seed: int = 0,
    lazy: bool = False,
    **engine_options: Any,
) -> ImplicitPRM:
    """Loads an implicit PRM and its reference model; `close` ends both.

    Args:
        prm: the PRM, such as `PRIME-RL/EurusPRM-Stage2`.
        reference: the reference, if it is not the profile's; the model `none` means no reference.
        name: the PRM's name, if it is not its model's.
        profile: its reference and how its rewards are read; known for the released models.
        engine: for models that are not open yet.
        threshold: the score from which a step is right.
        cache: folder for the reference's log-probabilities; `auto` is the user's cache folder, None means no cache.
        seed: the engines' seed.
        lazy: open each model with the first solution that needs it, as `ImplicitPRM.judge_rows` and
            `ImplicitPRM.prepare` do.
        **engine_options: passed to both engines.

    Raises:
        PRMError: the reference is unknown, or an argument is not suitable.
        EngineError: an engine or a model does not load.
    """
    name = name or prm.name
    profile = profile or detect_implicit(name) or ImplicitProfile()
    if reference is None and profile.reference is not None:
        reference = Source(profile.reference, revision=profile.reference_revision, dtype=prm.dtype)
    if reference is None:
        raise PRMError(
            f"which reference model was {name!r} trained with? Pass it as the reference; {NO_REFERENCE!r} means none"
        )
    if reference.base_urls and reference.model == NO_REFERENCE:
        raise PRMError(f"the servers {list(reference.base_urls)!r} are for a reference, and the reference is 'none'")
    if isinstance(prm.model, str):
        text = await asyncio.to_thread(Tokenizer.from_pretrained, prm.tokenizer or prm.model, prm.revision)
    else:
        text = prm.model.tokenizer
    # The two models share a GPU, unless they take turns.
    here = [one for one in (prm, reference) if isinstance(one.model, str) and not one.base_urls]
    vllm_options = {
        "gpu_memory_utilization": 0.9 if lazy or len(here) < 2 else 0.45,
        # vLLM keeps the logits of all prompt tokens of an engine step at once, and does not count them in its memory
        # plan.
        "max_num_batched_tokens": 2048,
    }

    def kind_of(source: Source) -> EngineKind:
        # A server has one model: the other one is loaded into this process if it has no server.
        return choose_engine(engine if engine != "openai" and not source.base_urls else "auto", source.base_urls)

    def opening(source: Source) -> Engine | Callable[[], Awaitable[Engine]]:
        if not isinstance(source.model, str):
            return source.model
        kind = kind_of(source)
        return partial(
            load_engine,
            kind,
            source.model,
            base_urls=source.base_urls,
            revision=source.revision,
            tokenizer=source.tokenizer or (source.model if source.base_urls else None),
            seed=seed,
            dtype=source.dtype,
            **((vllm_options if kind == "vllm" else {}) | engine_options),
        )

    own = LogprobModel(opening(prm), name=name, tokenizer=text)
    base: LogprobModel | None = None
    if reference.model != NO_REFERENCE:
        kind = kind_of(reference) if isinstance(reference.model, str) else "open"
        base = LogprobModel(
            opening(reference),
            # The same weights in another engine or precision may differ by as much as the two models do.
            name=f"{weights_name(reference.name, reference.revision)} {kind} {reference.dtype}",
            tokenizer=text,
            cache=LogprobCache(default_cache() if cache == "auto" else cache) if cache is not None else None,
        )
    loaded = ImplicitPRM(
        own,
        base,
        text,
        beta=profile.beta,
        mode=profile.mode,
        reward=profile.reward,
        threshold=threshold,
        name=name,
    )
    if not lazy:
        try:
            await loaded.open()
        except BaseException:
            await loaded.close()
            raise
    return loaded
