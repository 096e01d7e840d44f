"""A model's family and profile: from a file beside its weights, its configuration or its name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from genprm.prms.base import PRMError
from genprm.prms.critic import CriticProfile, critic_sampling
from genprm.prms.discriminative.formats import FORMATS, DiscriminativeProfile, detect_format
from genprm.prms.genprm.protocol import RELEASED, Profile, SamplingDefaults
from genprm.prms.hub import find_file, read_config
from genprm.prms.implicit.logratio import ImplicitProfile, detect_implicit
from genprm.prms.thinkprm.judge import ThinkProfile, think_sampling

PROFILE_FILE = "genprm.json"
"""File beside a model's weights with its family and profile."""

AnyProfile = Profile | ThinkProfile | CriticProfile | ImplicitProfile | DiscriminativeProfile


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GenPRMModel(_Model):
    """Profile of a model of the GenPRM family."""

    family: Literal["genprm"] = "genprm"
    profile: Profile = Profile()
    sampling: SamplingDefaults = SamplingDefaults()

    def sampled(self, votes: int) -> SamplingDefaults:
        """Sampling settings for this number of chains."""
        return self.sampling


class ThinkPRMModel(_Model):
    """Profile of a model of the ThinkPRM family."""

    family: Literal["thinkprm"] = "thinkprm"
    profile: ThinkProfile = ThinkProfile()
    sampling: SamplingDefaults | None = None
    """None means greedy for one chain, sampling for several."""

    def sampled(self, votes: int) -> SamplingDefaults:
        """Sampling settings for this number of chains."""
        return self.sampling or think_sampling(votes)


class CriticModel(_Model):
    """Profile of a chat model that is asked for the first wrong step."""

    family: Literal["critic"] = "critic"
    profile: CriticProfile = CriticProfile()
    sampling: SamplingDefaults | None = None

    def sampled(self, votes: int) -> SamplingDefaults:
        """Sampling settings for this number of chains."""
        return self.sampling or critic_sampling(votes)


class ImplicitModel(_Model):
    """Profile of an implicit PRM, which does not sample."""

    family: Literal["implicit"] = "implicit"
    profile: ImplicitProfile = ImplicitProfile()


def _discriminative(family: str) -> str:
    if family not in FORMATS:
        raise ValueError(f"must be one of {', '.join(FAMILIES)}")
    return family


class DiscriminativeModel(_Model):
    """Profile of a discriminative PRM, which does not sample."""

    family: Annotated[str, AfterValidator(_discriminative)]
    profile: DiscriminativeProfile = DiscriminativeProfile()


ModelProfile = GenPRMModel | ThinkPRMModel | CriticModel | ImplicitModel | DiscriminativeModel
"""Content of `genprm.json`. Released models have none and use the defaults of their family."""
_MODELS: dict[str, type[ModelProfile]] = {
    "genprm": GenPRMModel,
    "thinkprm": ThinkPRMModel,
    "critic": CriticModel,
    "implicit": ImplicitModel,
}
FAMILIES: tuple[str, ...] = (*_MODELS, *FORMATS)


def read_profile(path: str, revision: str | None = None, family: str | None = None) -> ModelProfile:
    """Reads a model's profile: its `genprm.json`, else from its configuration and name.

    Args:
        path: a folder, or a model id.
        revision: the model's revision on the Hub.
        family: its family. A file with another family is ignored.

    Raises:
        PRMError: the file is malformed, or the family cannot be determined.
    """
    if family is not None and family not in FAMILIES:
        raise PRMError(f"the family must be one of {', '.join(FAMILIES)}, not {family!r}")
    if not Path(path).is_dir() and (Path(path).exists() or path.startswith((".", "/"))):
        raise PRMError(f"there is no model in {path!r}: pass a folder with config.json and weights")
    if (found := find_file(path, PROFILE_FILE, revision)) is not None:
        try:
            known = _profile(json.loads(found.read_text(encoding="utf-8")))
        except ValueError as error:
            raise PRMError(f"{found} is not a model profile: {error}") from None
        if family in (None, known.family):
            return known
    if family is not None:
        named = _by_name(path)
        return named if named is not None and named.family == family else _profile({"family": family})
    # A folder's own name and its architecture take precedence over the names of the folders above it.
    if (named := _by_name(Path(path).name)) is not None:
        return named
    config = read_config(path, revision)
    for name in (Path(path).name, path):
        if (format := detect_format(config, name)) is not None:
            return DiscriminativeModel(family=format.family)
    if (named := _by_name(path)) is not None:
        return named
    raise PRMError(
        f"cannot tell the family of {path!r}: neither its name, nor its configuration, nor a {PROFILE_FILE} beside its "
        f"weights says so. Name it, as one of {', '.join(FAMILIES)}."
    )


def change_profile(known: ModelProfile, fields: Mapping[str, object]) -> AnyProfile:
    """Changes fields of a model's profile.

    Raises:
        PRMError: the profile has no such field, or the value is invalid.
    """
    own = asdict(known.profile)
    for name in fields:
        if name not in own:
            (near,) = difflib.get_close_matches(name, own, n=1, cutoff=0.0)
            raise PRMError(f"a profile of the family {known.family!r} has no {name!r}. The nearest one is {near!r}.")
    try:
        return _profile({"family": known.family, "profile": {**own, **fields}}).profile
    except ValidationError as error:
        first = error.errors()[0]
        raise PRMError(f"the profile's {first['loc'][-1]!r} cannot be {first['input']!r}: {first['msg']}") from None


def _profile(value: object) -> ModelProfile:
    """A profile from parsed JSON. Raises ValueError (also as pydantic's ValidationError)."""
    family = cast("dict[str, object]", value).get("family") if isinstance(value, dict) else None
    return _MODELS.get(str(family), DiscriminativeModel).model_validate(value)


def _by_name(name: str) -> ModelProfile | None:
    """The profile by a model's name, for models with an ordinary causal language model's configuration."""
    if "thinkprm" in name.lower():
        return ThinkPRMModel()
    if "genprm" in name.lower():
        return GenPRMModel(profile=RELEASED)
    implicit = detect_implicit(name)
    return None if implicit is None else ImplicitModel(profile=implicit)
