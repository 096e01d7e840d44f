"""From a model's name to a judge that is ready: family, engine and sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from genprm.engines import EngineKind, load_engine
from genprm.engines.base import Engine
from genprm.prms.base import PRM, PRMError
from genprm.prms.calls import check_votes
from genprm.prms.critic import Critic, CriticProfile
from genprm.prms.discriminative.judge import load_discriminative
from genprm.prms.genprm.adaptive import CERTAINTY, Until
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.genprm.protocol import Mode, Profile, SamplingDefaults
from genprm.prms.implicit.load import load_implicit
from genprm.prms.profiles import (
    AnyProfile,
    DiscriminativeModel,
    GenPRMModel,
    ImplicitModel,
    change_profile,
    read_profile,
)
from genprm.prms.thinkprm.judge import ThinkPRMJudge, ThinkProfile
from genprm.sandbox import Limits, Sandbox, open_sandbox
from genprm.sandbox.opening import BackendName
from genprm.types import DEFAULT_THRESHOLD

BUILT_IN = "nano"
"""The name of the built-in model."""
BUILT_IN_PATH = Path(__file__).parent.parent / "nano"

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)


async def load_prm(
    name_or_path: str = BUILT_IN,
    *,
    family: str | None = None,
    engine: EngineKind | Engine = "auto",
    sandbox: BackendName | Sandbox | None = "auto",
    mode: Mode | str = Mode.EXECUTE,
    votes: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    until: Until | str = Until.END,
    confidence: float | None = None,
    certainty: float = CERTAINTY,
    profile: AnyProfile | Mapping[str, object] | None = None,
    reference: str | Engine | None = None,
    reference_urls: Sequence[str] = (),
    lazy: bool = False,
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
        family: the protocol to talk to the model in, where it is not the one that its profile or its name says:
            `critic` for any chat model, `implicit` for any causal language model with a reference.
        engine: an engine's name, or an engine that is open already (and stays open).
        sandbox: a backend's name, or a sandbox that is open already (and stays open). Only `Mode.EXECUTE` opens one.
        mode: how much of GenPRM's protocol to go through; the other families run no code.
        votes: independent chains a solution.
        temperature: of the chains; 0 is greedy. By default the model's own (0.6 for the released GenPRMs; ThinkPRM and
            critics are greedy with one vote), and so for `top_p` and `top_k`.
        top_p: nucleus of the sampling.
        top_k: number of candidates of the sampling; 0 for all.
        threshold: the score from which a step is right.
        until: of a GenPRM: how far a solution is judged: `first-error` leaves out the steps after the first wrong one.
        confidence: of a GenPRM with several votes: stop voting on a step once its verdict is settled with that
            confidence, in (0, 1]; 1 once the missing votes cannot flip it. None takes all votes.
        certainty: of `Mode.AUTO`: see `genprm.prms.genprm.adaptive.needs_code`.
        profile: the variant of the protocol, where it is not the model's own; or those of its fields that differ from
            the model's own, by name.
        reference: of an implicit PRM, the model it was trained against, where it is not the one that its profile or its
            name says: a folder, a model id, an engine that is open, or `none` to score without one.
        reference_urls: servers with the OpenAI completions API that serve the reference.
        lazy: open the two models of an implicit PRM when they are first needed: see `ImplicitPRM.prepare`.
        limits: what a snippet may use.
        base_urls: servers with the OpenAI completions API.
        revision: the model's revision on the Hub.
        tokenizer: folder or id of the tokenizer, where it is not the model's.
        seed: the engine's seed.
        dtype: type of the weights.
        **engine_options: passed to the engine; and `cache` and `reference_revision` of an implicit PRM to
            `genprm.prms.implicit.load.load_implicit`.

    Raises:
        PRMError: the family is not known, or an argument does not fit it.
        EngineError: the engine or the model does not load.
        SandboxError: no sandbox could be opened.
    """
    mode = _one_of(Mode, mode, "mode")
    until = _one_of(Until, until, "until")
    path = _path(name_or_path)
    known = await asyncio.to_thread(read_profile, path, revision, family)
    if isinstance(profile, Mapping):
        profile = change_profile(known, profile)
    if profile is not None and not isinstance(profile, type(known.profile)):
        raise PRMError(f"a judge of the family {known.family!r} cannot have the profile {profile!r}")
    if not isinstance(known, ImplicitModel) and (reference is not None or reference_urls):
        raise PRMError(f"a reference is for implicit PRMs: {path!r} is taken as one of the family {known.family!r}")
    if not isinstance(known, GenPRMModel) and (until != Until.END or confidence is not None):
        raise PRMError(
            f"until and confidence are for the family 'genprm', which judges step by step: {path!r} is taken as one of "
            f"the family {known.family!r}"
        )
    if isinstance(known, (ImplicitModel, DiscriminativeModel)):
        if votes != 1 or temperature:
            raise PRMError(
                f"a PRM of the family {known.family!r} samples nothing: leave out votes ({votes!r}) and temperature "
                f"({temperature!r})"
            )
        options: dict[str, Any] = engine_options | {
            "engine": engine,
            "base_urls": base_urls,
            "revision": revision,
            "tokenizer": tokenizer,
            "seed": seed,
            "dtype": dtype,
            "threshold": threshold,
            "profile": profile or known.profile,
        }
        if isinstance(known, DiscriminativeModel):
            return await load_discriminative(path, family=known.family, **options)
        if isinstance(reference, str):
            reference = _path(reference)
        return await load_implicit(path, reference=reference, reference_urls=reference_urls, lazy=lazy, **options)
    own = known.sampled(votes)
    sampling = SamplingDefaults(
        own.temperature if temperature is None else temperature,
        own.top_p if top_p is None else top_p,
        own.top_k if top_k is None else top_k,
    )
    check_votes(votes, sampling.temperature)
    executes = isinstance(known, GenPRMModel) and mode.executes
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(_open(sandbox, executes, limits, stack))
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
        match profile or known.profile:
            case Profile() as chosen:
                judge = GenPRM(
                    engine,
                    box,
                    mode=mode,
                    votes=votes,
                    profile=chosen,
                    sampling=sampling,
                    threshold=threshold,
                    until=until,
                    confidence=confidence,
                    certainty=certainty,
                )
            case ThinkProfile() as chosen:
                judge = ThinkPRMJudge(engine, votes=votes, profile=chosen, sampling=sampling, threshold=threshold)
            case CriticProfile() as chosen:
                judge = Critic(engine, votes=votes, profile=chosen, sampling=sampling, threshold=threshold)
            case chosen:
                raise AssertionError(f"a family that samples has no such profile: {chosen!r}")
        judge.owned = stack.pop_all()
        return judge


def _path(model: str) -> str:
    """Where the built-in model lies; any other is left as it is."""
    return str(BUILT_IN_PATH) if model == BUILT_IN else model


def _one_of(kind: type[ChoiceT], value: ChoiceT | str, name: str) -> ChoiceT:
    try:
        return kind(value)
    except ValueError:
        raise PRMError(f"{name} must be one of {', '.join(kind)}, not {value!r}") from None


async def _open(
    sandbox: BackendName | Sandbox | None, executes: bool, limits: Limits | None, stack: AsyncExitStack
) -> Sandbox | None:
    if not isinstance(sandbox, str):
        return sandbox
    if not executes:
        return None
    return await stack.enter_async_context(open_sandbox(sandbox, limits=limits or Limits()))
