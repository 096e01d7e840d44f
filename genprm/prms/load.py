"""From a model's name to a judge that is ready: family, engine and sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from genprm.engines import EngineKind, load_engine
from genprm.engines.base import Engine
from genprm.prms.base import PRM, PRMError
from genprm.prms.genprm import GenPRM, Mode, Profile, SamplingDefaults
from genprm.types import DEFAULT_THRESHOLD
from sandbox import Limits, Sandbox, open_sandbox
from sandbox.opening import BackendName

BUILT_IN = "nano"
"""The name of the built-in model."""
BUILT_IN_PATH = Path(__file__).parent.parent / "nano"
PROFILE_FILE = "genprm.json"
"""Beside a model's weights: its family, and what it was trained to expect."""


class ModelProfile(BaseModel):
    """`genprm.json`: how to talk to a model. Released models have none; then the family's defaults count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str
    profile: Profile = Profile()
    sampling: SamplingDefaults = SamplingDefaults()


async def load_prm(
    name_or_path: str = BUILT_IN,
    *,
    engine: EngineKind | Engine = "auto",
    sandbox: BackendName | Sandbox | None = "auto",
    mode: Mode | str = Mode.EXECUTE,
    votes: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    profile: Profile | None = None,
    limits: Limits | None = None,
    base_urls: Sequence[str] = (),
    revision: str | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    dtype: str = "auto",
    **engine_options: Any,
) -> PRM:
    """Loads a judge. The model and the sandbox start side by side; `close` ends both.

    Args:
        name_or_path: `nano` (built in), a folder, or a model id such as `GenPRM/GenPRM-7B`. Behind `base_urls` it is
            the name that the server knows, and where the tokenizer comes from.
        engine: an engine's name, or an engine that is open already (and stays open).
        sandbox: a backend's name, or a sandbox that is open already (and stays open). Only `Mode.EXECUTE` opens one.
        mode: how much of the protocol to go through.
        votes: independent chains a solution.
        temperature: of the chains; 0 is greedy. By default the model's own (0.6 for the released GenPRMs), and so
            for `top_p` and `top_k`.
        top_p: nucleus of the sampling.
        top_k: number of candidates of the sampling; 0 for all.
        threshold: the score from which a step is right.
        profile: the variant of the protocol, where it is not the model's own.
        limits: what a snippet may use.
        base_urls: servers with the OpenAI completions API.
        revision: the model's revision on the Hub.
        tokenizer: folder or id of the tokenizer, where it is not the model's.
        seed: the engine's seed.
        dtype: type of the weights.
        **engine_options: passed to the engine.

    Raises:
        PRMError: the family is not known, or an argument does not fit it.
        EngineError: the engine or the model does not load.
        SandboxError: no sandbox could be opened.
    """
    mode = _mode(mode)
    path = str(BUILT_IN_PATH) if name_or_path == BUILT_IN else name_or_path
    known = await asyncio.to_thread(read_profile, path, revision)
    if known.family != "genprm":
        raise PRMError(f"model {name_or_path!r} is of the family {known.family!r}; known is 'genprm'")
    chosen = SamplingDefaults(
        known.sampling.temperature if temperature is None else temperature,
        known.sampling.top_p if top_p is None else top_p,
        known.sampling.top_k if top_k is None else top_k,
    )
    if votes > 1 and chosen.temperature == 0:
        raise PRMError(f"{votes} votes at temperature 0 are {votes} times the same chain: pass a temperature, 0.6 say")
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(_open(sandbox, mode, limits, stack))
        try:
            if isinstance(engine, str):
                # What a server calls the built-in model is its own business; it serves one model.
                model = None if base_urls and name_or_path == BUILT_IN else path
                engine = await load_engine(
                    engine,
                    model,
                    base_urls=base_urls,
                    revision=revision,
                    tokenizer=tokenizer or (path if base_urls else None),
                    seed=seed,
                    dtype=dtype,
                    **engine_options,
                )
                stack.push_async_callback(engine.close)
        finally:
            box = await opening
        return GenPRM(
            engine,
            box,
            mode=mode,
            votes=votes,
            profile=profile or known.profile,
            sampling=chosen,
            threshold=threshold,
            owned=stack.pop_all(),
        )


def read_profile(path: str, revision: str | None = None) -> ModelProfile:
    """What is known about a model: its `genprm.json`, else what its name says.

    Raises:
        PRMError: the file is malformed, or nothing tells the family.
    """
    found: str | None = None
    if Path(path).is_dir():
        file = Path(path) / PROFILE_FILE
        found = str(file) if file.is_file() else None
    elif Path(path).exists() or path.startswith((".", "/")):
        raise PRMError(f"there is no model in {path!r}: a folder with config.json and weights is wanted")
    else:
        from transformers.utils.hub import cached_file

        try:
            found = cached_file(
                path,
                PROFILE_FILE,
                revision=revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except OSError:
            found = None
    if found is not None:
        try:
            return ModelProfile.model_validate_json(Path(found).read_text(encoding="utf-8"))
        except ValidationError as error:
            raise PRMError(f"{found} is no model profile: {error}") from None
    if "genprm" in path.lower():
        return ModelProfile(family="genprm")
    raise PRMError(
        f"cannot tell the family of {path!r}: neither its name nor a {PROFILE_FILE} beside its weights says so. "
        f'A {PROFILE_FILE} of {{"family": "genprm"}} is enough for a model trained in the GenPRM format.'
    )


def _mode(mode: Mode | str) -> Mode:
    try:
        return Mode(mode)
    except ValueError:
        raise PRMError(f"mode must be one of {', '.join(Mode)}, not {mode!r}") from None


async def _open(
    sandbox: BackendName | Sandbox | None, mode: Mode, limits: Limits | None, stack: AsyncExitStack
) -> Sandbox | None:
    if not isinstance(sandbox, str):
        return sandbox
    if mode is not Mode.EXECUTE:
        return None
    return await stack.enter_async_context(open_sandbox(sandbox, limits=limits or Limits()))
