"""Recipes: YAML files that say all about a search, so that one file repeats one experiment.

A recipe may extend another one, from which it then takes whatever it does not say itself. Keys that mean nothing are
errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from genprm.engines import PATIENCE_S, EngineKind
from genprm.prms.genprm.protocol import Mode
from genprm.runs.keep import Keep
from genprm.search.policy import PolicySettings
from genprm.search.run import Choose, Method, SearchSettings
from genprm.search.voting import Aggregate
from genprm.types import DEFAULT_THRESHOLD

EXTENDS = "extends"
_POLICY = PolicySettings()


class RecipeError(ValueError):
    """A recipe that cannot be read, or that says something that makes no sense."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problems(_Strict):
    """Where problems come from: one of `files`, `pool`, `dataset` and `generate`."""

    files: list[str] = []
    """JSONL files or JSON arrays."""
    pool: list[str] = []
    """JSONL files of problems with several solutions each; nothing is sampled then."""
    dataset: str | None = None
    """A data set of the Hub, or a folder."""
    config: str | None = None
    split: str = "test"
    generate: int | None = Field(default=None, ge=1)
    """So many word problems, made by rule."""
    generate_seed: int = 1
    problem: str = "problem"
    """The key of the problem in a row."""
    answer: str = "answer"
    """The key of the reference answer."""
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Problems:
        given = [name for name in ("files", "pool", "dataset", "generate") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of files, pool, dataset and generate, not {given or 'none'}")
        return self


class PolicyRecipe(_Strict):
    """The model that writes solutions. What is not here is said by `genprm.search.policy.PolicySettings`."""

    model: str
    engine: EngineKind = "auto"
    base_url: list[str] = []
    patience_s: float = Field(default=PATIENCE_S, ge=0)
    """For how long a request to a server that fails is sent again."""
    revision: str | None = None
    dtype: str = "auto"
    prompt: str = _POLICY.prompt
    system: str | None = None
    chat: bool = True
    temperature: float = Field(default=_POLICY.temperature, ge=0, le=2)
    top_p: float = Field(default=_POLICY.top_p, gt=0, le=1)
    top_k: int = Field(default=_POLICY.top_k, ge=0)
    max_tokens: int = Field(default=_POLICY.max_tokens, ge=1)
    stop: list[str] = list(_POLICY.stop)
    opening: str = _POLICY.opening
    ends_with: str | None = None
    max_steps: int = Field(default=_POLICY.max_steps, ge=1)

    def settings(self) -> PolicySettings:
        """The part that says how the model is asked."""
        own = self.model_dump(exclude={"model", "engine", "base_url", "patience_s", "revision", "dtype", "stop"})
        return PolicySettings(stop=tuple(self.stop), **own)


class PRMRecipe(_Strict):
    """The model that judges; see `genprm.load_prm`."""

    model: str = "nano"
    family: str | None = None
    reference: str | None = None
    """The reference model of an implicit PRM."""
    reference_url: list[str] = []
    engine: EngineKind = "auto"
    base_url: list[str] = []
    revision: str | None = None
    dtype: str = "auto"
    mode: Mode = Mode.EXECUTE
    votes: int = Field(default=1, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    threshold: float = Field(default=DEFAULT_THRESHOLD, ge=0, le=1)
    sandbox: Literal["auto", "docker", "bubblewrap"] = "auto"
    profile: str | None = None
    """A file with fields of the family's protocol."""
    calibration: str | None = None
    """A file of `genprm calibrate`."""


class Recipe(_Strict):
    """A search."""

    description: str = ""
    problems: Problems
    policy: PolicyRecipe | None = None
    prm: PRMRecipe | None = None
    method: Method = Method.BEST_OF_N
    n: int = Field(default=8, ge=1)
    width: int = Field(default=4, ge=1)
    iterations: int = Field(default=20, ge=1)
    lookahead: int = Field(default=0, ge=0)
    aggregate: Aggregate | None = None
    choose: Choose = Choose.BEST
    seed: Annotated[int, Field(ge=0)] = 0
    concurrency: int | None = Field(default=None, ge=1)
    keep: Keep = Keep.SCORES

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        pool = bool(self.problems.pool)
        if self.policy is None and not pool:
            raise ValueError("a policy is needed, unless the problems come from a pool")
        if self.policy is not None and pool:
            raise ValueError("a pool has its solutions already: leave out the policy")
        if self.method is not Method.BEST_OF_N:
            if pool:
                raise ValueError(f"{self.method} writes its solutions itself: a pool needs best_of_n")
            if self.prm is None:
                raise ValueError(f"{self.method} is led by a PRM: name one under prm")
            if self.n < self.width or (self.method is Method.DVTS and self.n % self.width):
                raise ValueError(f"n must be a multiple of width, not {self.n} with a width of {self.width}")
            if self.policy is not None and self.policy.temperature == 0:
                raise ValueError("at temperature 0 all continuations are the same: set policy.temperature, 0.8 say")
        if self.method is Method.BEST_OF_N and self.n > 1 and self.policy is not None and not self.policy.temperature:
            raise ValueError("at temperature 0 all solutions are the same: set policy.temperature, 0.8 say")
        if self.prm is None and not pool and self.choose is not Choose.MAJORITY:
            raise ValueError(f"choose: {self.choose} needs a prm; without one there is choose: majority")
        return self

    def settings(self) -> SearchSettings:
        """The part that says how to search."""
        return SearchSettings(
            self.method, self.n, self.width, self.iterations, self.lookahead, self.aggregate, self.choose
        )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, with what it extends.

    Args:
        path: the file.
        overrides: `key=value`, where a key may be `policy.temperature` and a value is YAML. They win over the file.

    Raises:
        RecipeError: a file cannot be read, or a key or value makes no sense.
    """
    values = _read(path, ())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"{override!r} is no setting: write it as key=value, policy.temperature=0.6 for example")
        try:
            value: JsonValue = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{override!r}: the value is not YAML: {error}") from error
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        values = _merged(values, cast("dict[str, JsonValue]", value))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{str(path)!r}: {'; '.join(_explained(one) for one in error.errors())}") from None


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, JsonValue]:
    where = path.resolve()
    if where in above:
        raise RecipeError(f"{str(path)!r} extends itself, by way of {' and '.join(str(one) for one in above)}")
    try:
        found: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{str(path)!r} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{str(path)!r} must hold keys and values, not {found!r:.80}")
    values = {str(key): value for key, value in cast("dict[object, JsonValue]", found).items()}
    base = values.pop(EXTENDS, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"{str(path)!r}: extends must name a file, not {base!r}")
    return _merged(_read(path.parent / base, (*above, where)), values)


def _merged(base: Mapping[str, JsonValue], over: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`over`'s values, and `base`'s where it has none; mappings are merged, anything else is replaced as a whole."""
    out = dict(base)
    for key, value in over.items():
        before = out.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        out[key] = _merged(cast("dict[str, JsonValue]", before), cast("dict[str, JsonValue]", value)) if both else value
    return out


def _explained(error: Mapping[str, object]) -> str:
    places = [str(part) for part in cast("tuple[object, ...]", error["loc"])]
    where = ".".join(places)
    if error["type"] == "extra_forbidden":
        known = [*_fields(places[:-1]), *([EXTENDS] if len(places) == 1 else [])]
        (near,) = difflib.get_close_matches(places[-1], known, n=1, cutoff=0.0)
        return f"the key {where!r} is unknown; the nearest one is {near!r}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] in ("value_error", "missing"):
        return f"{where!r} is missing" if error["type"] == "missing" else f"{where}: {message}" if where else message
    return f"{where!r} cannot be {error['input']!r:.80}: {message}"


def _fields(places: Sequence[str]) -> list[str]:
    """The keys that are known at a place."""
    models: dict[str, type[BaseModel]] = {"problems": Problems, "policy": PolicyRecipe, "prm": PRMRecipe}
    return list((models[places[0]] if places else Recipe).model_fields)
