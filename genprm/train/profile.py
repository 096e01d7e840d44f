"""The profile of a trained model, for its folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from genprm.prms.genprm.protocol import Profile, SamplingDefaults
from genprm.prms.profiles import GenPRMModel, ThinkPRMModel
from genprm.prms.thinkprm.judge import ThinkProfile
from genprm.train.config import Asked
from genprm.train.export import Generative


def model_profile(config: Asked) -> Generative:
    """The profile of the trained model."""
    if config.family == "thinkprm":
        sampling = None if config.temperature is None else SamplingDefaults(config.temperature, 1.0, 0)
        return ThinkPRMModel(
            profile=ThinkProfile() if config.bos is None else ThinkProfile(bos=config.bos), sampling=sampling
        )
    profile = Profile(
        question=config.question, assistant_marker=config.assistant_marker, bos=config.bos, seam=config.seam
    )
    sampling = SamplingDefaults()
    if config.temperature is not None:
        sampling = replace(sampling, temperature=config.temperature)
    return GenPRMModel(profile=profile, sampling=sampling)


def profile_json(profile: Generative) -> dict[str, Any]:
    """A profile as the content of `genprm.json`."""
    made: dict[str, Any] = {"family": profile.family, "profile": asdict(profile.profile)}
    if profile.sampling is not None:
        made["sampling"] = asdict(profile.sampling)
    return made
