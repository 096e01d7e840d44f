"""The recipe of `genprm loop`: the stages from a policy's rollouts to a better judge, and their gates.

The sections are those of the commands: `label`, `synthesize`, `train` and `search` take the same keys as these
commands. What one stage passes to the next (folders, the judge's name) cannot be set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar, cast

from pydantic import BaseModel, Field, JsonValue, field_validator, model_validator

from genprm.config import ClusterConfig, EngineConfig, JudgeConfig
from genprm.fields import Config, free_fields
from genprm.rpe.config import LabelConfig, TeacherConfig
from genprm.runs.sources import sources
from genprm.search.recipe import Problems, Recipe
from genprm.train.config import SftConfig

ConfigT = TypeVar("ConfigT", bound=Config)


class LoopError(RuntimeError):
    """A stage produced too little for the next one, or rows of it failed."""


def _refuse(values: Any, names: tuple[str, ...], why: str) -> None:
    if isinstance(values, Mapping):
        given = cast("Mapping[str, object]", values)
        if wrong := next((name for name in names if name in given), None):
            raise ValueError(f"{wrong} {given[wrong]!r} cannot be set here: {why}")


class Labels(LabelConfig, ClusterConfig, EngineConfig):
    """`genprm label`."""

    @model_validator(mode="before")
    @classmethod
    def _two_models(cls, values: Any) -> Any:
        _refuse(values, ("model", "base_url", "revision", "tokenizer"), "it has a policy and a completer")
        return values


class Benchmark(JudgeConfig):
    """`genprm bench processbench`, on files or on the policy's solutions."""

    files: tuple[str, ...] = Field(default=(), description="Labelled solutions in ProcessBench's format.")
    generate: int | None = Field(
        default=None,
        ge=1,
        description="Instead: the policy's solutions of this many generated word problems, labelled by the truth.",
    )
    generate_seed: int = Field(default=5000, ge=0, description="Seed of the generated problems.")

    @model_validator(mode="before")
    @classmethod
    def _judge_is_made(cls, values: Any) -> Any:
        _refuse(values, ("model",), "the loop makes the judge")
        return values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.files) == bool(self.generate):
            raise ValueError("give files of labelled solutions, or generate")
        return self


class Gates(Config):
    """Minimum results of the stages, and most failures; past one, the loop stops with a message."""

    labelled: int = Field(default=20, ge=1, description="Solutions whose first wrong step the rollouts decide.")
    failed: int = Field(
        default=0, ge=0, description="Most rows of a stage that may fail; the stage's failures.jsonl names them."
    )
    kept: int = Field(default=20, ge=1, description="Solutions on which rollouts and teacher agree.")
    each: int = Field(default=5, ge=0, description="Least number of right and of wrong solutions among these.")
    f1: float = Field(default=0.0, ge=0, le=1, description="F1 of the benchmark.")


class LoopRecipe(Config):
    """A loop."""

    description: str = Field(default="", description="What the recipe is for.")
    rounds: int = Field(default=1, ge=1, le=100, description="How often the stages run; each continues from the judge.")
    seed: int = Field(default=0, ge=0, description="Seed of sampling in the first round; each round uses the next one.")
    problems: Problems = Field(description="Problems with answers, to learn from: files, or generated.")
    label: Labels = Field(default=Labels(), description="Rollouts and step labels.")
    synthesize: TeacherConfig = Field(default=TeacherConfig(), description="Rationales, and the consensus filter.")
    train: SftConfig = Field(default=SftConfig(), description="The judge.")
    benchmark: Benchmark | None = Field(default=None, description="How the judge is measured.")
    search: Recipe | None = Field(default=None, description="How the policy is searched with the judge.")
    gates: Gates = Field(default=Gates(), description="Minimum results of the stages.")

    @field_validator("problems")
    @classmethod
    def _labelled(cls, problems: Problems) -> Problems:
        if problems.pool or problems.dataset:
            raise ValueError("the loop takes problems from files or generate")
        return problems

    @field_validator("train", mode="before")
    @classmethod
    def _handed_on(cls, values: Any) -> Any:
        _refuse(values, ("data", "out", "clean", "as_json", "dry_run"), "the loop sets it")
        return values

    @field_validator("search", mode="before")
    @classmethod
    def _judge_is_made(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            given = cast("Mapping[str, object]", values)
            _refuse(given.get("prm"), ("model",), "the loop makes the judge")
            return {**given, "prm": given.get("prm") or {}}
        return values

    @model_validator(mode="after")
    def _apart(self) -> Self:
        first = self.problems.generate_seed
        seeds = range(first, first + self.rounds) if self.problems.generate else range(0)
        held_out = [("benchmark", self.benchmark.generate_seed)] if self.benchmark and self.benchmark.generate else []
        if self.search is not None and self.search.problems.generate:
            held_out.append(("search.problems", self.search.problems.generate_seed))
        for where, seed in held_out:
            if seed in seeds:
                raise ValueError(
                    f"{where}.generate_seed {seed} makes problems that round {seed - first + 1} learns from"
                )
        return self

    def source(self, number: int) -> dict[str, JsonValue]:
        """The problems of a round, from 1, as `label_into` takes them."""
        made = self.problems
        return {
            "files": sources(made.files),
            "generate": made.generate,
            "generate_seed": made.generate_seed + number - 1 if made.generate else 0,
            # Only names of the user's own: a stage of an earlier version has neither key.
            **{key: name for key, name in (("problem", made.problem), ("answer", made.answer)) if name != key},
        }

    def free(self) -> tuple[str, ...]:
        """Keys in `run.json` that do not change finished stages: more rounds may follow."""
        sections = {"label": Labels, "synthesize": TeacherConfig, "train": SftConfig, "benchmark": Benchmark}
        inner = [name for section, kind in sections.items() for name in free_fields(kind, f"{section}.")]
        return ("description", "rounds", *(f"gates.{name}" for name in Gates.model_fields), *inner)


class StageRow(BaseModel):
    """A finished stage."""

    key: str
    """Such as `round-1/label`; also its folder."""
    round: int
    """From 1; 0 for stages that run once."""
    stage: str
    figures: dict[str, int | float | None]
    """Its results."""
    seconds: float


def part(config: Config, kind: type[ConfigT], **changes: object) -> ConfigT:
    """The fields of a section that one of its kinds has."""
    values = {name: value for name, value in config if name in kind.model_fields and name in config.model_fields_set}
    return kind.model_validate({**values, **changes})


def gate(stage: str, figures: Mapping[str, float | None], gates: Gates) -> str | None:
    """Why the loop stops after a stage; None if it continues.

    Args:
        stage: its name.
        figures: its results.
        gates: the minimum results.
    """

    def short(name: str, least: float, key: str, advice: str) -> str | None:
        found = figures.get(name) or 0.0
        if found >= least:
            return None
        what = name.replace("_", " ")
        return f"{what}: {found:g}, and gates.{key} asks for {least:g}. Give it {advice}, or lower the gate"

    more = "more problems, a larger budget or more solutions"
    teach = "more labelled solutions or another teacher"
    checks = {
        "label": [("labelled", gates.labelled, "labelled", more)],
        "synthesize": [
            ("kept", gates.kept, "kept", teach),
            ("kept_with_a_wrong_step", gates.each, "each", teach),
            ("kept_right", gates.each, "each", teach),
        ],
        "benchmark": [("f1", gates.f1, "f1", "more rows or more steps")],
    }
    found = [short(*check) for check in checks.get(stage, ())]
    return next((why for why in found if why is not None), None)
