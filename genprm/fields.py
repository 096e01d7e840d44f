"""The base of the configuration models: options as fields, and errors that quote values."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator
from pydantic.fields import FieldInfo


class ConfigError(ValueError):
    """A setting that does not exist, is out of range, or contradicts another one. The message quotes it."""


@dataclass(frozen=True, slots=True)
class Option:
    """Metadata of a field that pydantic does not hold."""

    flags: tuple[str, ...] = ()
    """Names on the command line, if they differ from the field's."""
    shown: str | None = None
    """The default as shown in the help, if the value itself is not clear."""
    metavar: str | None = None
    text: bool = False
    """The command line takes text, which the model parses."""
    free: bool = False
    """It does not change results, so it may differ when a run is resumed."""
    stored: bool = True
    """Whether `run.json` contains it."""
    engine: str | None = None
    """The only engine that takes it, under the same name."""


class Config(BaseModel):
    """Base of the configuration models: frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _as_people_write_it(cls, values: object) -> object:
        """A path serves as a name, and one text where several may stand."""
        if not isinstance(values, Mapping):
            return values
        found: dict[str, object] = {}
        for name, value in cast("Mapping[str, object]", values).items():
            plain = os.fspath(value) if isinstance(value, os.PathLike) else value
            field = cls.model_fields.get(name)
            several = field is not None and field.annotation == tuple[str, ...]
            found[name] = (plain,) if several and isinstance(plain, str) else plain
        return found

    @classmethod
    def of(cls, values: Mapping[str, object], where: str = "") -> Self:
        """Validates values.

        Raises:
            ConfigError: a key is unknown or a value is invalid; the message names the nearest key or the range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(where + explain(error, cls)) from None

    def stored(self) -> dict[str, JsonValue]:
        """The fields for `run.json`."""
        left_out = {name for name, field in type(self).model_fields.items() if not option_of(field).stored}
        return cast("dict[str, JsonValue]", self.model_dump(mode="json", exclude=left_out))


def option_of(field: FieldInfo) -> Option:
    """The field's `Option`, or an empty one."""
    return next((one for one in field.metadata if isinstance(one, Option)), Option())


def free_fields(model: type[Config], prefix: str = "") -> tuple[str, ...]:
    """Names of the stored fields that do not change results, with `prefix` as in `run.json`."""
    fields = model.model_fields.items()
    return tuple(prefix + name for name, field in fields if option_of(field).free and option_of(field).stored)


def explain(error: ValidationError, model: type[BaseModel], *, more_keys: Iterable[str] = ()) -> str:
    """Describes a validation error: quotes the values and names the nearest key.

    Args:
        error: the error from pydantic.
        model: the model that was validated.
        more_keys: additional known keys at the top level.
    """
    return "; ".join(_explained(one, model, more_keys) for one in error.errors())


def _explained(error: Mapping[str, Any], model: type[BaseModel], more_keys: Iterable[str]) -> str:
    places = [str(part) for part in error["loc"]]
    where = ".".join(places)
    if error["type"] == "extra_forbidden":
        known = [*_fields_at(model, places[:-1]), *(more_keys if len(places) == 1 else ())]
        near = difflib.get_close_matches(places[-1], known, n=1, cutoff=0.0)
        return f"the key {where!r} is unknown; the nearest one is {near[0]!r}" if near else f"no key {where!r}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where!r} cannot be {error['input']!r:.80}: {message}"


def _fields_at(model: type[BaseModel], places: Iterable[str]) -> list[str]:
    for place in places:
        field = model.model_fields.get(place)
        inner = () if field is None else (field.annotation, *get_args(field.annotation))
        found = [one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)]
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated with `over`. Nested mappings are merged; other values are replaced."""
    out = dict(base)
    for key, value in over.items():
        before = out.get(key)
        both = isinstance(before, dict) and isinstance(value, Mapping)
        out[key] = merged(cast("dict[str, Any]", before), cast("Mapping[str, Any]", value)) if both else value
        # `mode` and `with_code` mean the same: the one in `over` wins.
        other = {"mode": "with_code", "with_code": "mode"}.get(key)
        if other is not None and other not in over:
            out.pop(other, None)
    return out


def read_yaml(path: Path, what: str) -> object:
    """Reads a YAML or JSON file.

    Raises:
        ConfigError: the file cannot be read.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {what} {str(path)!r}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not YAML: {error}") from None


def content_digest(path: Path, what: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"cannot read {what} {str(path)!r}: {error.strerror}") from None
