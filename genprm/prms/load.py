"""From a model's name to a judge that is ready: family, engine and sandbox."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from genprm.engines import EngineKind, load_engine
from genprm.engines.base import Engine
from genprm.prms import critic, thinking
from genprm.prms.base import PRM, PRMError
from genprm.prms.calls import check_votes
from genprm.prms.critic import Critic, CriticProfile
from genprm.prms.genprm import GenPRM
from genprm.prms.protocol import Mode, Profile, SamplingDefaults
from genprm.prms.thinking import ThinkPRMJudge, ThinkProfile
from genprm.types import DEFAULT_THRESHOLD
from sandbox import Limits, Sandbox, open_sandbox
from sandbox.opening import BackendName

BUILT_IN = "nano"
"""The name of the built-in model."""
BUILT_IN_PATH = Path(__file__).parent.parent / "nano"
PROFILE_FILE = "genprm.json"
"""Beside a model's weights: its family, and what it was trained to expect."""


Family = Literal["genprm", "thinkprm", "critic"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GenPRMModel(_Model):
    """How to talk to a model of the GenPRM family."""

    family: Literal["genprm"] = "genprm"
    profile: Profile = Profile()
    sampling: SamplingDefaults = SamplingDefaults()

    def sampled(self, votes: int) -> SamplingDefaults:
        """How so many chains are sampled."""
        return self.sampling


class ThinkPRMModel(_Model):
    """How to talk to a model of the ThinkPRM family."""

    family: Literal["thinkprm"] = "thinkprm"
    profile: ThinkProfile = ThinkProfile()
    sampling: SamplingDefaults | None = None
    """None: one chain is greedy, several are sampled."""

    def sampled(self, votes: int) -> SamplingDefaults:
        """How so many chains are sampled."""
        return self.sampling or thinking.default_sampling(votes)


class CriticModel(_Model):
    """How to talk to a chat model that is asked for the first wrong step."""

    family: Literal["critic"] = "critic"
    profile: CriticProfile = CriticProfile()
    sampling: SamplingDefaults | None = None

    def sampled(self, votes: int) -> SamplingDefaults:
        """How so many chains are sampled."""
        return self.sampling or critic.default_sampling(votes)


ModelProfile = Annotated[GenPRMModel | ThinkPRMModel | CriticModel, Field(discriminator="family")]
"""`genprm.json`. Released models have none; then the family's defaults count."""
FAMILIES: dict[str, type[GenPRMModel] | type[ThinkPRMModel] | type[CriticModel]] = {
    "genprm": GenPRMModel,
    "thinkprm": ThinkPRMModel,
    "critic": CriticModel,
}
_PROFILE: TypeAdapter[GenPRMModel | ThinkPRMModel | CriticModel] = TypeAdapter(ModelProfile)


async def load_prm(
    name_or_path: str = BUILT_IN,
    *,
    family: Family | None = None,
    engine: EngineKind | Engine = "auto",
    sandbox: BackendName | Sandbox | None = "auto",
    mode: Mode | str = Mode.EXECUTE,
    votes: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    profile: Profile | ThinkProfile | CriticProfile | Mapping[str, object] | None = None,
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
            `critic` for any chat model.
        engine: an engine's name, or an engine that is open already (and stays open).
        sandbox: a backend's name, or a sandbox that is open already (and stays open). Only `Mode.EXECUTE` opens one.
        mode: how much of GenPRM's protocol to go through; the other families run no code.
        votes: independent chains a solution.
        temperature: of the chains; 0 is greedy. By default the model's own (0.6 for the released GenPRMs; ThinkPRM and
            critics are greedy with one vote), and so for `top_p` and `top_k`.
        top_p: nucleus of the sampling.
        top_k: number of candidates of the sampling; 0 for all.
        threshold: the score from which a step is right.
        profile: the variant of the protocol, where it is not the model's own; or those of its fields that differ from
            the model's own, by name.
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
    known = await asyncio.to_thread(read_profile, path, revision, family)
    if isinstance(profile, Mapping):
        profile = _changed(known, profile)
    if profile is not None and not isinstance(profile, type(known.profile)):
        raise PRMError(f"a judge of the family {known.family!r} cannot have the profile {profile!r}")
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
                    engine, box, mode=mode, votes=votes, profile=chosen, sampling=sampling, threshold=threshold
                )
            case ThinkProfile() as chosen:
                judge = ThinkPRMJudge(engine, votes=votes, profile=chosen, sampling=sampling, threshold=threshold)
            case CriticProfile() as chosen:
                judge = Critic(engine, votes=votes, profile=chosen, sampling=sampling, threshold=threshold)
        judge.owned = stack.pop_all()
        return judge


def read_profile(path: str, revision: str | None = None, family: Family | None = None) -> ModelProfile:
    """What is known about a model: its `genprm.json`, else what its name says.

    Args:
        path: a folder, or a model id.
        revision: the model's revision on the Hub.
        family: the family to take it as. A file that says another is left aside.

    Raises:
        PRMError: the file is malformed, or nothing tells the family.
    """
    if family is not None and family not in FAMILIES:
        raise PRMError(f"the family must be one of {', '.join(FAMILIES)}, not {family!r}")
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
            known = _PROFILE.validate_json(Path(found).read_text(encoding="utf-8"))
        except ValidationError as error:
            raise PRMError(f"{found} is no model profile: {error}") from None
        if family in (None, known.family):
            return known
    if family is None:
        family = next((name for name in ("thinkprm", "genprm") if name in path.lower()), None)
    if family is None:
        raise PRMError(
            f"cannot tell the family of {path!r}: neither its name nor a {PROFILE_FILE} beside its weights says so. "
            f"Name it, as one of {', '.join(FAMILIES)}."
        )
    return FAMILIES[family]()


def _changed(
    known: GenPRMModel | ThinkPRMModel | CriticModel, fields: Mapping[str, object]
) -> Profile | ThinkProfile | CriticProfile:
    own = asdict(known.profile)
    for name in fields:
        if name not in own:
            (near,) = difflib.get_close_matches(name, own, n=1, cutoff=0.0)
            raise PRMError(f"a profile of the family {known.family!r} has no {name!r}. The nearest one is {near!r}.")
    try:
        return type(known).model_validate({"family": known.family, "profile": {**own, **fields}}).profile
    except ValidationError as error:
        first = error.errors()[0]
        raise PRMError(f"the profile's {first['loc'][-1]!r} cannot be {first['input']!r}: {first['msg']}") from None


def _mode(mode: Mode | str) -> Mode:
    try:
        return Mode(mode)
    except ValueError:
        raise PRMError(f"mode must be one of {', '.join(Mode)}, not {mode!r}") from None


async def _open(
    sandbox: BackendName | Sandbox | None, executes: bool, limits: Limits | None, stack: AsyncExitStack
) -> Sandbox | None:
    if not isinstance(sandbox, str):
        return sandbox
    if not executes:
        return None
    return await stack.enter_async_context(open_sandbox(sandbox, limits=limits or Limits()))
