"""Recipes: YAML files with the complete configuration of a search, so that one file repeats one experiment.

A recipe may extend another one, which provides the values that it does not set. Unknown keys are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import yaml
from pydantic import Field, ValidationError, model_validator

from genprm.config import JudgeConfig, Keep, PolicyConfig, WorkConfig
from genprm.data.shipped import shipped
from genprm.fields import Config, ConfigError, explain, merged, read_yaml
from genprm.search.run import Choose, Method, SearchSettings
from genprm.search.voting import Aggregate

EXTENDS = "extends"


SOURCES = ("files", "pool", "dataset", "generate")
"""The keys for the source of problems."""


class Problems(Config):
    """The source of problems: one of `files`, `pool`, `dataset` and `generate`."""

    files: tuple[str, ...] = Field(default=(), description="JSONL files or JSON arrays of problems.")
    pool: tuple[str, ...] = Field(
        default=(), description="JSONL files of problems with stored solutions, which are judged instead of sampling."
    )
    dataset: str | None = Field(default=None, description="A data set on the Hub, or a folder.")
    config: str | None = Field(default=None, description="The configuration of the data set.")
    split: str = Field(default="test", description="The split of the data set.")
    generate: int | None = Field(default=None, ge=1, description="This many generated word problems.")
    generate_seed: int = Field(default=1, description="Seed of the generated problems.")
    problem: str = Field(default="problem", description="The key of the problem in a row.")
    answer: str = Field(default="answer", description="The key of the reference answer in a row.")
    limit: int | None = Field(default=None, ge=1, description="Read at most this many problems.")
    sample: int | None = Field(
        default=None, ge=1, description="Choose this many problems at random (by the seed), before the limit."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Problems:
        given = [name for name in SOURCES if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of files, pool, dataset and generate, not {given or 'none'}")
        return self


class Recipe(WorkConfig):
    """A search."""

    description: str = Field(default="", description="What the recipe is for.")
    problems: Problems = Field(description="The source of problems.")
    policy: PolicyConfig | None = Field(default=None, description="The model that writes solutions.")
    prm: JudgeConfig | None = Field(default=None, description="The model that judges them.")
    method: Method = Field(default=Method.BEST_OF_N, description="Search method.")
    n: int = Field(default=8, ge=1, description="Solutions per problem.")
    width: int = Field(default=4, ge=1, description="Continuations of each kept prefix, in beam search and DVTS.")
    iterations: int = Field(
        default=20, ge=1, description="Most rounds of beam search and DVTS; the last one writes to the end."
    )
    lookahead: int = Field(
        default=0, ge=0, description="Greedy steps written after a prefix before it is judged; 0 writes none."
    )
    aggregate: Aggregate | None = Field(
        default=None,
        description="How step scores become a reward; by default the score of the whole, else the lowest score.",
    )
    choose: Choose = Field(default=Choose.BEST, description="How the answer is chosen among the solutions.")
    keep: Keep = Field(default=Keep.SCORES, description=WorkConfig.model_fields["keep"].description)

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        pool = bool(self.problems.pool)
        if self.policy is None and not pool:
            raise ValueError("a policy is needed, unless the problems come from a pool")
        if self.policy is not None and pool:
            raise ValueError("a pool has solutions already: leave out the policy")
        if self.method is not Method.BEST_OF_N:
            if pool:
                raise ValueError(f"{self.method} samples its own solutions: a pool needs best_of_n")
            if self.prm is None:
                raise ValueError(f"{self.method} needs a PRM: set prm")
            if self.n < self.width or (self.method is Method.DVTS and self.n % self.width):
                raise ValueError(f"n must be a multiple of width, not {self.n} with a width of {self.width}")
            if self.policy is not None and self.policy.temperature == 0:
                raise ValueError("at temperature 0 all continuations are the same: set policy.temperature, such as 0.8")
        if self.method is Method.BEST_OF_N and self.n > 1 and self.policy is not None and not self.policy.temperature:
            raise ValueError("at temperature 0 all solutions are the same: set policy.temperature, such as 0.8")
        if self.prm is None and not pool and self.choose is not Choose.MAJORITY:
            raise ValueError(f"choose: {self.choose} needs a prm; without one, use choose: majority")
        return self

    def settings(self) -> SearchSettings:
        """The settings of the search."""
        return SearchSettings(
            self.method, self.n, self.width, self.iterations, self.lookahead, self.aggregate, self.choose
        )


RecipeT = TypeVar("RecipeT", bound=Config)


def load_recipe(path: Path, overrides: Sequence[str] = (), changes: Mapping[str, object] | None = None) -> Recipe:
    """Reads the recipe of a search: see `read_recipe`."""
    return read_recipe(path, Recipe, overrides, changes)


def read_recipe(
    path: Path, kind: type[RecipeT], overrides: Sequence[str] = (), changes: Mapping[str, object] | None = None
) -> RecipeT:
    """Reads a recipe and the recipes that it extends.

    Args:
        path: the file; `builtin:NAME` is a recipe in the package.
        kind: what it is a recipe of.
        overrides: `key=value`, where a key may be `policy.temperature` and a value is YAML. They override the file.
        changes: further values, in the recipe's structure. They override both.

    Raises:
        ConfigError: a file cannot be read, or a key or value is invalid.
    """
    values = _read(Path(shipped(str(path), "recipes")), ())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{override!r} is not a setting: write key=value, such as policy.temperature=0.6")
        try:
            value: object = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{override!r}: the value is not YAML: {error}") from error
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        values = _over(values, cast("dict[str, object]", value))
    try:
        return kind.model_validate(_over(values, changes or {}))
    except ValidationError as error:
        raise ConfigError(f"{str(path)!r}: {explain(error, kind, more_keys=(EXTENDS,))}") from None


def _over(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Overrides a recipe's values. A new source of problems also replaces the keys that say how to read it."""
    below, above = base.get("problems"), over.get("problems")
    if isinstance(below, Mapping) and isinstance(above, Mapping) and any(map(above.get, SOURCES)):
        kept = {key: value for key, value in cast("Mapping[str, object]", below).items() if key in ("limit", "sample")}
        base = {**base, "problems": kept}
    return merged(base, over)


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, object]:
    where = path.resolve()
    if where in above:
        raise ConfigError(f"{str(path)!r} extends itself, by way of {' and '.join(str(one) for one in above)}")
    found = read_yaml(path, "the recipe")
    if not isinstance(found, dict):
        raise ConfigError(f"{str(path)!r} must hold keys and values, not {found!r:.80}")
    values = {str(key): value for key, value in cast("dict[object, object]", found).items()}
    base = values.pop(EXTENDS, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{str(path)!r}: extends must name a file, not {base!r}")
    return _over(_read(path.parent / shipped(base, "recipes"), (*above, where)), values)
