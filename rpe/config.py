"""The configuration of labelling and synthesis."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genprm.config import BUILT_IN_POLICY, ClusterConfig, EngineConfig, SandboxConfig
from genprm.fields import Config, Option
from genprm.rpe.labels import CONFIDENCE


class LabelConfig(Config):
    """How `genprm label` samples solutions and estimates the values of their prefixes."""

    policy: str = Field(default=BUILT_IN_POLICY, description="The model that writes solutions: a name or a folder.")
    policy_url: Annotated[tuple[str, ...], Option(shown="none", free=True)] = Field(
        default=(), description="A server with the policy. Repeat for several."
    )
    completer: Annotated[str | None, Option(shown="the policy")] = Field(
        default=None, description="The model that continues prefixes of solutions."
    )
    completer_url: Annotated[tuple[str, ...], Option(shown="none", free=True)] = Field(
        default=(), description="A server with the completer. Repeat for several."
    )
    solutions: int = Field(default=4, ge=1, description="Solutions to label per problem, half of them right.")
    first: int = Field(default=32, ge=1, description="Solutions sampled in the first round.")
    most: int = Field(default=128, ge=1, description="Most solutions sampled per problem.")
    temperature: float = Field(default=0.7, ge=0, le=2, description="Temperature of solutions and continuations.")
    max_tokens: int = Field(default=2048, ge=1, description="Longest solution and longest continuation, in tokens.")
    budget: Annotated[int | str, Option(metavar="adaptive|dynamic|N", text=True)] = Field(
        default="adaptive",
        description="Rollouts: `adaptive` stops when a label is decided, `dynamic` is the paper's, or a number.",
    )
    confidence: float = Field(
        default=CONFIDENCE, gt=0.5, lt=1, description="Probability that decides an adaptive label."
    )
    first_error: Annotated[bool, Option(flags=("--first-error/--every-step",))] = Field(
        default=False,
        description="Let an adaptive budget decide spans of steps at once: cheaper, but it misses errors.",
    )
    method: Literal["ratio", "difference", "hard"] = Field(
        default="ratio", description="How the progress of a step is measured."
    )
    threshold: Annotated[float | None, Option(shown="0.8, -0.3 or 0 by method")] = Field(
        default=None, description="Lowest progress of a right step."
    )

    @field_validator("budget", mode="after")
    @classmethod
    def _known_budget(cls, budget: int | str) -> int | str:
        if budget in ("adaptive", "dynamic"):
            return budget
        if not str(budget).isdecimal() or int(budget) < 1:
            raise ValueError(f"the budget must be adaptive, dynamic or a number from 1, not {budget!r}")
        return int(budget)


_TEACHING = {"genprm": (0.6, 16_384), "thinkprm": (0.1, 4096)}
"""Temperature and longest text of the two papers' teachers."""


class TeacherConfig(ClusterConfig, SandboxConfig, EngineConfig):
    """The teacher of `genprm synthesize`, which reviews labelled solutions."""

    model: Annotated[str, Field(min_length=1)] = Field(
        default="generator",
        description="A chat model, or `generator` for rule-based rationales of generated word problems.",
    )
    style: Literal["genprm", "thinkprm"] = Field(
        default="genprm",
        description="Rationales with code for each step, or verification chains about the whole solution.",
    )
    temperature: Annotated[float | None, Option(shown="0.6, of chains 0.1")] = Field(
        default=None, ge=0, le=2, description="Sampling temperature of the teacher."
    )
    max_tokens: Annotated[int | None, Option(shown="16384, of chains 4096")] = Field(
        default=None, ge=1, description="Longest review or chain, in tokens."
    )
    chains: int = Field(default=4, ge=1, description="Chains for each solution; style thinkprm.")
    filter: Literal["process", "outcome", "none"] = Field(
        default="process",
        description="Keep chains that match all labels, or only find an error if there is one; style thinkprm.",
    )
    balance: Annotated[bool, Option(flags=("--balance/--no-balance",))] = Field(
        default=True, description="Keep as many chains about right as about wrong solutions; style thinkprm."
    )
    meta_check: Annotated[bool, Option(flags=("--meta-check/--no-meta-check",))] = Field(
        default=True,
        description="Drop rationales whose code contradicts the verdict or computes nothing from the step.",
    )
    verdicts: int = Field(default=4, ge=1, description="Number of samples of the conclusion.")
    question: Literal["question", "bare"] = Field(
        default="question",
        description="First user turn: with `Question: ` as in the released data, or bare as for `nano`.",
    )
    format: Annotated[Literal["messages", "ids"], Option(free=True)] = Field(
        default="messages",
        description="`ids` also writes masked `input_ids` and `labels`, for any trainer.",
    )
    student: Annotated[str | None, Option(shown="none", free=True)] = Field(
        default=None, description="Model to be trained, whose tokenizer is used; format ids."
    )

    @property
    def teaching(self) -> tuple[float, int]:
        """Temperature and longest text in tokens; by default the style's."""
        temperature, max_tokens = _TEACHING[self.style]
        return (
            temperature if self.temperature is None else self.temperature,
            max_tokens if self.max_tokens is None else self.max_tokens,
        )

    @model_validator(mode="after")
    def _ids_are_of_a_model(self) -> TeacherConfig:
        if self.format == "ids" and self.student is None:
            raise ValueError("--format ids needs --student MODEL: the model to be trained, whose tokenizer is used")
        if self.format == "messages" and self.student is not None:
            raise ValueError(f"--student {self.student!r} is for --format ids: messages fit every model")
        return self

    @model_validator(mode="after")
    def _chains_differ(self) -> TeacherConfig:
        if self.style == "thinkprm" and self.chains > 1 and self.temperature == 0:
            raise ValueError(f"{self.chains} chains at temperature 0 are all the same: use --chains 1 or a temperature")
        return self
