"""What labelling and synthesis are configured with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genprm.config import BUILT_IN_POLICY, ClusterConfig, EngineConfig, SandboxConfig
from genprm.fields import Config, Option
from genprm.rpe.labels import CONFIDENCE


class LabelConfig(Config):
    """How `genprm label` samples solutions and values their prefixes."""

    policy: str = Field(default=BUILT_IN_POLICY, description="The model that writes solutions: a name or a folder.")
    policy_url: Annotated[tuple[str, ...], Option(shown="none", free=True)] = Field(
        default=(), description="A server of the policy. Repeat it for several."
    )
    completer: Annotated[str | None, Option(shown="the policy")] = Field(
        default=None, description="The model that continues them."
    )
    completer_url: Annotated[tuple[str, ...], Option(shown="none", free=True)] = Field(
        default=(), description="A server of the completer. Repeat it for several."
    )
    solutions: int = Field(default=4, ge=1, description="Solutions to label a problem, half of them right.")
    first: int = Field(default=32, ge=1, description="Solutions to sample at first.")
    most: int = Field(default=128, ge=1, description="Solutions to sample at most.")
    temperature: float = Field(default=0.7, ge=0, le=2, description="Of solutions and of continuations.")
    max_tokens: int = Field(default=2048, ge=1, description="Longest solution and longest continuation, in tokens.")
    budget: Annotated[int | str, Option(metavar="adaptive|dynamic|N", text=True)] = Field(
        default="adaptive",
        description="Rollouts: `adaptive` stops when a label is decided, `dynamic` is the paper's, or a number.",
    )
    confidence: float = Field(default=CONFIDENCE, gt=0.5, lt=1, description="From which an adaptive label is decided.")
    first_error: Annotated[bool, Option(flags=("--first-error/--every-step",))] = Field(
        default=False,
        description="Whether an adaptive budget decides spans of steps at once: cheaper, but it misses errors.",
    )
    method: Literal["ratio", "difference", "hard"] = Field(
        default="ratio", description="How the progress of a step is measured."
    )
    threshold: Annotated[float | None, Option(shown="0.8, -0.3 or 0 by method")] = Field(
        default=None, description="Progress of a right step."
    )

    @field_validator("budget", mode="after")
    @classmethod
    def _known_budget(cls, budget: int | str) -> int | str:
        if budget in ("adaptive", "dynamic"):
            return budget
        if not str(budget).isdecimal() or int(budget) < 1:
            raise ValueError(f"the budget is adaptive, dynamic or a number from 1, not {budget!r}")
        return int(budget)


_TEACHING = {"genprm": (0.6, 16_384), "thinkprm": (0.1, 4096)}
"""Temperature and longest text of the two papers' teachers."""


class TeacherConfig(ClusterConfig, SandboxConfig, EngineConfig):
    """The teacher of `genprm synthesize`, which reviews labelled solutions."""

    model: Annotated[str, Field(min_length=1)] = Field(
        default="generator",
        description="A chat model, or `generator` for the rationales of word problems made by rule.",
    )
    style: Literal["genprm", "thinkprm"] = Field(
        default="genprm",
        description="Critiques with code for each step, or verification chains over the whole solution.",
    )
    temperature: Annotated[float | None, Option(shown="0.6, of chains 0.1")] = Field(
        default=None, ge=0, le=2, description="Of the teacher."
    )
    max_tokens: Annotated[int | None, Option(shown="16384, of chains 4096")] = Field(
        default=None, ge=1, description="Longest review or chain, in tokens."
    )
    chains: int = Field(default=4, ge=1, description="Chains for each solution; style thinkprm.")
    filter: Literal["process", "outcome", "none"] = Field(
        default="process",
        description="Keep chains that match all labels, or only find an error where there is one; style thinkprm.",
    )
    balance: Annotated[bool, Option(flags=("--balance/--no-balance",))] = Field(
        default=True, description="Keep as many chains over right as over wrong solutions; style thinkprm."
    )
    meta_check: Annotated[bool, Option(flags=("--meta-check/--no-meta-check",))] = Field(
        default=True, description="Drop critiques whose code contradicts the verdict or computes nothing of the step."
    )
    verdicts: int = Field(default=4, ge=1, description="How often the conclusion is sampled.")
    question: Literal["question", "bare"] = Field(
        default="question",
        description="First user turn: with `Question: ` as in the released data, or bare as `nano` has it.",
    )
    format: Annotated[Literal["messages", "ids"], Option(free=True)] = Field(
        default="messages",
        description="`ids` also writes `input_ids` and `labels`, masked as training wants them, for any trainer.",
    )
    student: Annotated[str | None, Option(shown="none", free=True)] = Field(
        default=None, description="Model that is to be trained, whose ids they are; format ids."
    )

    @property
    def teaching(self) -> tuple[float, int]:
        """Temperature and longest text in tokens, the style's where they are not set."""
        temperature, max_tokens = _TEACHING[self.style]
        return (
            temperature if self.temperature is None else self.temperature,
            max_tokens if self.max_tokens is None else self.max_tokens,
        )

    @model_validator(mode="after")
    def _ids_are_of_a_model(self) -> TeacherConfig:
        if self.format == "ids" and self.student is None:
            raise ValueError("--format ids needs --student MODEL: the model that is to be trained, whose ids they are")
        if self.format == "messages" and self.student is not None:
            raise ValueError(f"--student {self.student!r} is for --format ids: messages fit every model")
        return self

    @model_validator(mode="after")
    def _chains_differ(self) -> TeacherConfig:
        if self.style == "thinkprm" and self.chains > 1 and self.temperature == 0:
            raise ValueError(f"{self.chains} chains at temperature 0 are all the same: use --chains 1 or a temperature")
        return self
