"""Opens a judge of any family."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genprm.config import BUILT_IN, JudgeConfig, Until
from genprm.engines import BUILT_IN as BUILT_IN_PATHS
from genprm.engines import Engine, open_engine
from genprm.fields import merged
from genprm.prms.base import PRM, PRMError
from genprm.prms.calibration import Calibration, calibrated
from genprm.prms.calls import check_votes
from genprm.prms.critic import Critic, CriticProfile
from genprm.prms.discriminative.judge import load_discriminative
from genprm.prms.genprm.adaptive import Spending
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.genprm.protocol import Profile, SamplingDefaults
from genprm.prms.implicit.load import Source, load_implicit
from genprm.prms.implicit.logratio import ImplicitProfile
from genprm.prms.profiles import (
    AnyProfile,
    DiscriminativeModel,
    GenPRMModel,
    ImplicitModel,
    ModelProfile,
    change_profile,
    read_profile,
)
from genprm.prms.thinkprm.judge import ThinkPRMJudge, ThinkProfile
from genprm.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Parts:
    """Objects for opening a judge, besides its configuration."""

    engine: Engine | None = None
    """An open engine with the model; it stays open."""
    sandbox: Sandbox | None = None
    """An open sandbox; it stays open."""
    reference: Engine | None = None
    """An open engine with an implicit PRM's reference; it stays open."""
    profile: AnyProfile | None = None
    """The profile, instead of the model's own."""
    seed: int = 0
    """The engine's seed."""
    lazy: bool = False
    """Open the two models of an implicit PRM when they are first needed: see `ImplicitPRM.prepare`."""


_OPEN = ("engine", "sandbox", "reference", "profile")
"""Settings that may be given as objects."""


async def load_prm(model: str | JudgeConfig = BUILT_IN, *, seed: int = 0, lazy: bool = False, **settings: Any) -> PRM:
    """Loads a judge. Model and sandbox start concurrently; `close` ends both.

    Args:
        model: `nano` (built in), a folder, or a model id such as `GenPRM/GenPRM-7B`; or a whole configuration.
        seed: the engine's seed.
        lazy: open the two models of an implicit PRM when they are first needed: see `ImplicitPRM.prepare`.
        **settings: fields of `genprm.config.JudgeConfig`, such as `votes=8` or `base_url=["http://127.0.0.1:8000/v1"]`.
            `engine`, `sandbox` and `reference` may also be open objects, which stay open; `profile` may also be a
            profile object.

    Raises:
        ConfigError: a setting does not exist, is out of range, or contradicts another.
        PRMError: the family is unknown, or a setting does not apply to it.
        EngineError: the engine or the model does not load.
        SandboxError: no sandbox could be opened.
        CalibrationError: the calibration cannot be read.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    is_open = [name for name in _OPEN if not isinstance(given.get(name, ""), (str, Path, Mapping))]
    parts = Parts(seed=seed, lazy=lazy, **{name: given.pop(name) for name in is_open})
    return await open_prm(resolve(model, given), parts)


def resolve(model: str | JudgeConfig | None, settings: Mapping[str, object]) -> JudgeConfig:
    """Applies settings to a configuration.

    Raises:
        ConfigError: a setting does not exist, is out of range, or contradicts another.
    """
    if isinstance(model, JudgeConfig):
        return JudgeConfig.of(merged(dict(model), settings)) if settings else model
    return JudgeConfig.of({"model": model or BUILT_IN, **settings})


async def open_prm(config: JudgeConfig, parts: Parts = Parts()) -> PRM:
    """Opens the judge that a configuration describes; see `load_prm`."""
    # A calibration that cannot be read is reported before a model is loaded.
    calibration = None if config.calibration is None else Calibration.load(config.calibration)
    prm = await _open_uncalibrated(config, parts)
    return prm if calibration is None else calibrated(prm, calibration)


async def _open_uncalibrated(config: JudgeConfig, parts: Parts) -> PRM:
    path = model_path(config.model)
    known = await asyncio.to_thread(read_profile, path, config.revision, config.family)
    profile = parts.profile or (known.profile if config.profile is None else change_profile(known, config.profile))
    if not isinstance(profile, type(known.profile)):
        raise PRMError(f"a judge of the family {known.family!r} cannot have the profile {profile!r}")
    _check_fits(config, known, path, parts)
    if isinstance(known, (ImplicitModel, DiscriminativeModel)):
        return await _open_scorer(config, known, profile, path, parts)
    own = known.sampled(config.most_votes)
    sampling = SamplingDefaults(
        own.temperature if config.temperature is None else config.temperature,
        own.top_p if config.top_p is None else config.top_p,
        own.top_k if config.top_k is None else config.top_k,
    )
    check_votes(config.most_votes, sampling.temperature)
    executes = isinstance(known, GenPRMModel) and config.mode.executes
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(_open_sandbox(config, parts, executes, stack))
        try:
            engine = parts.engine
            if engine is None:
                engine = await open_engine(config, seed=parts.seed)
                stack.push_async_callback(engine.close)
            box = await opening
        except BaseException:
            # Report the error at once: the sandbox may be building its image.
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            raise
        votes, threshold = config.most_votes, config.threshold
        match profile:
            case Profile():
                judge = GenPRM(
                    engine,
                    box,
                    mode=config.mode,
                    votes=votes,
                    profile=profile,
                    sampling=sampling,
                    threshold=threshold,
                    spending=Spending(config.until, config.settled_at, config.certainty),
                )
            case ThinkProfile():
                judge = ThinkPRMJudge(engine, votes=votes, profile=profile, sampling=sampling, threshold=threshold)
            case CriticProfile():
                judge = Critic(engine, votes=votes, profile=profile, sampling=sampling, threshold=threshold)
            case _:
                raise AssertionError(f"unexpected profile: {profile!r}")
        judge.owned = stack.pop_all()
        return judge


def model_path(model: str) -> str:
    """The folder of a built-in model; other names are returned unchanged."""
    return str(BUILT_IN_PATHS[model]) if model in BUILT_IN_PATHS else model


def _check_fits(config: JudgeConfig, known: ModelProfile, path: str, parts: Parts) -> None:
    """Refuses settings that do not apply to the family."""
    referred = config.reference is not None or config.reference_url or parts.reference is not None
    if referred and not isinstance(known, ImplicitModel):
        raise PRMError(f"a reference is for implicit PRMs: {path!r} is taken as one of the family {known.family!r}")
    if not isinstance(known, GenPRMModel) and (config.until != Until.END or config.adaptive):
        raise PRMError(
            f"until and adaptive votes are for the family 'genprm', which judges step by step: {path!r} is taken as "
            f"one of the family {known.family!r}"
        )
    scores = isinstance(known, (ImplicitModel, DiscriminativeModel))
    if scores and (config.most_votes != 1 or config.temperature):
        raise PRMError(
            f"a PRM of the family {known.family!r} does not sample: leave out votes ({config.votes!r}) and temperature "
            f"({config.temperature!r})"
        )


async def _open_scorer(
    config: JudgeConfig, known: ImplicitModel | DiscriminativeModel, profile: AnyProfile, path: str, parts: Parts
) -> PRM:
    """Opens a PRM that does not sample."""
    options: dict[str, Any] = {
        "seed": parts.seed,
        "threshold": config.threshold,
        "profile": profile,
        **config.options_for(None),
    }
    if isinstance(known, DiscriminativeModel):
        return await load_discriminative(
            path,
            family=known.family,
            engine=parts.engine or config.engine,
            base_urls=config.base_url,
            revision=config.revision,
            tokenizer=config.tokenizer,
            dtype=config.dtype,
            **options,
        )
    own = Source(parts.engine or path, config.base_url, config.revision, config.tokenizer, config.dtype)
    other = parts.reference or (None if config.reference is None else model_path(config.reference))
    revision = config.reference_revision
    if other is None and isinstance(profile, ImplicitProfile) and profile.reference is not None:
        other, revision = model_path(profile.reference), revision or profile.reference_revision
    dtype = config.reference_dtype or config.dtype
    if other is None and config.reference_url:
        raise PRMError(f"the servers {list(config.reference_url)!r} serve a reference: name the model that they serve")
    cache = config.reference_cache
    return await load_implicit(
        own,
        None if other is None else Source(other, config.reference_url, revision, None, dtype),
        name=path,
        engine=config.engine,
        cache={"auto": "auto", "none": None}.get(cache, Path(cache)),  # pyright: ignore[reportArgumentType]
        lazy=parts.lazy,
        **options,
    )


async def _open_sandbox(config: JudgeConfig, parts: Parts, executes: bool, stack: AsyncExitStack) -> Sandbox | None:
    if parts.sandbox is not None or not executes:
        return parts.sandbox
    return await stack.enter_async_context(config.open_sandbox())
