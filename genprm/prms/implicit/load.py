"""Opens an implicit PRM and its reference model."""

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
from genprm.prms.implicit.judge import ImplicitPRM
from genprm.prms.implicit.logprobs import LogprobCache, LogprobModel, default_cache, weights_name
from genprm.prms.implicit.logratio import NO_REFERENCE, ImplicitProfile, detect_implicit
from genprm.types import DEFAULT_THRESHOLD


async def load_implicit(
    name_or_path: str,
    *,
    profile: ImplicitProfile | None = None,
    reference: str | Engine | None = None,
    engine: EngineKind | Engine = "auto",
    base_urls: Sequence[str] = (),
    reference_urls: Sequence[str] = (),
    threshold: float = DEFAULT_THRESHOLD,
    cache: Path | Literal["auto"] | None = "auto",
    revision: str | None = None,
    reference_revision: str | None = None,
    reference_dtype: str | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    dtype: str = "auto",
    lazy: bool = False,
    **engine_options: Any,
) -> ImplicitPRM:
    """Loads an implicit PRM and its reference model; `close` ends both.

    Args:
        name_or_path: a folder, or a model id such as `PRIME-RL/EurusPRM-Stage2`.
        profile: what it was trained against and how its rewards are read; known for the released models.
        reference: the reference, where it is not the profile's: a folder, a model id, an engine that is open, or
            `none` to use log-probabilities without one.
        engine: an engine's name, used for both models, or an engine that is open already with the PRM in it.
        base_urls: servers with the PRM.
        reference_urls: servers with the reference model.
        threshold: the score from which a step is right.
        cache: folder in which the reference's log-probabilities are kept; `auto` is the user's cache folder, None
            keeps none.
        revision: the PRM's revision on the Hub.
        reference_revision: the reference's.
        reference_dtype: type of the reference's weights, where it is not `dtype`: see `benchmarks/README.md` for what
            bfloat16 and int8 save and cost on a CPU.
        tokenizer: folder or id of the PRM's tokenizer, where it is not the model's.
        seed: the engines' seed.
        dtype: type of the weights.
        lazy: open the models with the first solution that needs them, as `ImplicitPRM.judge_rows` and
            `ImplicitPRM.prepare` do in turn.
        **engine_options: passed to both engines.

    Raises:
        PRMError: the reference is not known, or an argument does not fit.
        EngineError: an engine or a model does not load.
    """
    profile = profile or detect_implicit(name_or_path) or ImplicitProfile()
    if reference is None:
        reference = profile.reference
    if reference is None:
        raise PRMError(
            f"which model was {name_or_path!r} trained against? Pass it as the reference; {NO_REFERENCE!r} scores "
            "without one"
        )
    if reference_urls and reference == NO_REFERENCE:
        raise PRMError(f"the servers {list(reference_urls)!r} are for a reference, and the reference is 'none'")
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

    def kind_of(urls: Sequence[str]) -> EngineKind:
        # A server holds one model: what has no server of its own is loaded into this process.
        return choose_engine(engine if isinstance(engine, str) and engine != "openai" and not urls else "auto", urls)

    def opening(
        model: str, urls: Sequence[str], commit: str | None, own_tokenizer: str | None, weights: str
    ) -> Callable[[], Awaitable[Engine]]:
        kind = kind_of(urls)
        return partial(
            load_engine,
            kind,
            model,
            base_urls=urls,
            revision=commit,
            tokenizer=own_tokenizer or (model if urls else None),
            seed=seed,
            dtype=weights,
            **((vllm_options if kind == "vllm" else {}) | engine_options),
        )

    own = LogprobModel(
        opening(name_or_path, base_urls, revision, tokenizer, dtype) if isinstance(engine, str) else engine,
        name=name_or_path,
        tokenizer=text,
    )
    base: LogprobModel | None = None
    if reference != NO_REFERENCE:
        other = reference_dtype or dtype
        kind = kind_of(reference_urls) if isinstance(reference, str) else "open"
        source = reference if isinstance(reference, str) else reference.model_name
        base = LogprobModel(
            opening(reference, reference_urls, reference_revision, None, other)
            if isinstance(reference, str)
            else reference,
            # The same weights in another engine or precision differ by as much as the models that are compared may.
            name=f"{weights_name(source, reference_revision)} {kind} {other}",
            tokenizer=text,
            cache=LogprobCache(default_cache() if cache == "auto" else cache) if cache is not None else None,
        )
    prm = ImplicitPRM(
        own,
        base,
        text,
        beta=profile.beta,
        mode=profile.mode,
        reward=profile.reward,
        threshold=threshold,
        name=name_or_path,
    )
    if not lazy:
        try:
            await prm.open()
        except BaseException:
            await prm.close()
            raise
    return prm
