"""Engines: where tokens and log-probabilities come from.

`load_engine` opens one of three behind the same protocol: `vllm` (in process, for real work), `openai` (servers with
the OpenAI completions API, such as `vllm serve`) and `transformers` (plain PyTorch, for small machines).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm.config import BUILT_IN as JUDGE
from genprm.config import BUILT_IN_POLICY, PATIENCE_S, EngineConfig, EngineKind
from genprm.engines.base import Completion, Engine, Finish, Sampling
from genprm.engines.errors import ContextOverflowError, EngineError
from genprm.engines.hub import check_model

if TYPE_CHECKING:
    from genprm.engines.transformers.engine import TransformersEngine

__all__ = [
    "BUILT_IN",
    "PATIENCE_S",
    "Completion",
    "ContextOverflowError",
    "Engine",
    "EngineError",
    "EngineKind",
    "Finish",
    "Sampling",
    "choose_engine",
    "load_engine",
    "open_engine",
]

BUILT_IN = {
    JUDGE: Path(__file__).parent.parent / "nano",
    BUILT_IN_POLICY: Path(__file__).parent.parent / "nano_policy",
}
"""The built-in models by name: a judge and a policy."""


async def load_engine(
    kind: EngineKind,
    model: str | None,
    *,
    base_urls: Sequence[str] = (),
    revision: str | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    dtype: str = "auto",
    **options: Any,
) -> Engine:
    """Opens an engine.

    Args:
        kind: `auto` takes `openai` with a base URL, `vllm` if it is installed and there is a GPU, else
            `transformers`.
        model: folder, model id, or the name of a built-in model: `nano` or `nano-policy`. With `openai` it is the name
            the server knows, by default the one it serves; a built-in model may have any name there.
        base_urls: servers with the OpenAI completions API, such as `http://127.0.0.1:8000/v1`.
        revision: revision of the model on the Hub.
        tokenizer: folder or id of the tokenizer, if it is not the model's.
        seed: seed of requests without one.
        dtype: type of the weights, such as `bfloat16`; `auto` is the engine's choice, `int8` is for the transformers
            engine on a CPU. Ignored for servers.
        **options: the engine's own: see `TransformersEngine.load`, `VllmEngine.load`, `OpenAIEngine.open`.

    Raises:
        EngineError: the engine is not installed, the model does not load, no server answers.
    """
    kind = await asyncio.to_thread(choose_engine, kind, base_urls)
    if dtype == "int8" and kind == "vllm":
        raise EngineError("int8 weights are for the transformers engine: name a quantised model for vllm")
    if model in BUILT_IN:
        built_in = str(BUILT_IN[model])
        model, tokenizer = (None, tokenizer or built_in) if kind == "openai" else (built_in, tokenizer)
    if kind == "openai":
        from genprm.engines.openai import OpenAIEngine

        return await OpenAIEngine.open(
            base_urls, model=model, tokenizer=tokenizer, revision=revision, seed=seed, **options
        )
    if base_urls:
        raise EngineError(f"the {kind!r} engine runs in this process and takes no base URL: {list(base_urls)!r}")
    if model is None:
        raise EngineError(f"the {kind!r} engine needs a model: a folder or a model id")
    if kind == "vllm":
        if not importlib.util.find_spec("vllm"):
            raise EngineError("the vllm engine is not installed: pip install 'genprm[vllm]'")
        await asyncio.to_thread(check_model, model, revision)
        from genprm.engines.vllm import VllmEngine

        load = VllmEngine.load
        with without_collection():
            return await load(model, tokenizer=tokenizer, revision=revision, seed=seed, dtype=dtype, **options)
    if kind == "transformers":
        need_torch(model)
        await asyncio.to_thread(check_model, model, revision)
        with without_collection():
            # Imported beside the event loop, which opens the sandbox meanwhile: PyTorch and transformers take seconds.
            load = (await asyncio.to_thread(_transformers_engine)).load
            return await load(model, tokenizer=tokenizer, revision=revision, seed=seed, dtype=dtype, **options)
    raise EngineError(f"there is no engine {kind!r}: use auto, transformers, vllm or openai")


async def open_engine(config: EngineConfig, *, seed: int = 0, **options: Any) -> Engine:
    """Opens the engine of a configuration.

    Args:
        config: the model, and where it runs.
        seed: seed of requests without one.
        **options: further engine options; the configuration overrides them.

    Raises:
        ConfigError: an option of another engine is set.
        EngineError: the engine is not installed, the model does not load, no server answers.
    """
    kind = await asyncio.to_thread(choose_engine, config.engine, config.base_url)
    served = config.base_url and config.model not in BUILT_IN
    return await load_engine(
        kind,
        config.model,
        base_urls=config.base_url,
        revision=config.revision,
        tokenizer=config.tokenizer or (config.model if served else None),
        seed=seed,
        dtype=config.dtype,
        **(options | config.options_for(kind)),
    )


def choose_engine(kind: EngineKind, base_urls: Sequence[str] = ()) -> EngineKind:
    """Resolves `auto` as in `load_engine`; other kinds are returned unchanged."""
    if kind != "auto":
        return kind
    if base_urls:
        return "openai"
    return "vllm" if importlib.util.find_spec("vllm") and _has_cuda() else "transformers"


@contextlib.contextmanager
def without_collection() -> Generator[None]:
    """A block without garbage collection: importing a million objects, none of which is garbage, takes a fifth less."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _transformers_engine() -> type[TransformersEngine]:
    from genprm.engines.transformers.lean import import_lean

    import_lean()
    from genprm.engines.transformers.engine import TransformersEngine

    return TransformersEngine


def need_torch(model: str) -> None:
    """Checks that a model can run in this process.

    Raises:
        EngineError: PyTorch or transformers is not installed.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        lacks = f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} not installed"
        raise EngineError(
            f"the model {Path(model).name!r} would run in this process, but {lacks}: "
            "pip install 'genprm[torch]' (on a GPU: pip install 'genprm[vllm]'), or name a server with --base-url "
            "(base_urls=[...] in Python)"
        )


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    with without_collection():
        import torch

    return torch.cuda.is_available()
