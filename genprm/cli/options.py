"""Command line options from the configuration models, and files that set them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from genprm.cli.boundary import friendly
from genprm.cli.grammar import Command
from genprm.fields import Config, ConfigError, option_of, read_yaml

_NOT_IN_FILES = {"config", "help", "clean", "dry_run", "as_json"}
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


@dataclass(frozen=True, slots=True)
class Options:
    """How a command offers the fields of a configuration.

    As in `policy: Annotated[PolicyConfig, Options("policy", defaults={"temperature": 0.7})]`.
    """

    prefix: str = ""
    """Prefix of every option: `policy` gives `--policy`, `--policy-url`, `--policy-temperature` and so on."""
    defaults: Mapping[str, object] = field(default_factory=dict[str, object])
    """Defaults that differ from the model's."""
    without: tuple[str, ...] = ()
    """Fields without an option."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fields whose option has a different name: `{"model": "teacher"}`."""

    def name(self, field_name: str) -> str:
        """The name of a field's option as a parameter of the command."""
        if field_name in self.names:
            return self.names[field_name]
        if not self.prefix:
            return field_name
        return self.prefix if field_name == "model" else f"{self.prefix}_{field_name.removeprefix('base_')}"


@dataclass(frozen=True, slots=True)
class Overrides:
    """Options that override a recipe. The command receives those that were given, by the recipe's keys."""

    sections: Mapping[str, tuple[type[Config], Options]]
    """Sections of the recipe (empty for its top level), and the fields that can be overridden there."""


class ConfiguredCommand(Command):
    """A command that also takes `--with-code auto`, which is `--mode auto`.

    The flag alone takes no value, so that a file may follow it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replaces it by `--mode auto` before parsing."""
        for place in range(len(args) - 1):
            if args[place : place + 2] == ["--with-code", "auto"]:
                args = [*args[:place], "--mode", "auto", *args[place + 2 :]]
                break
        return super().parse_args(ctx, args)


def command(app: typer.Typer, name: str, **how: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command. Every field of a configuration among its parameters becomes an option.

    The command is called with validated configurations; `--dry-run` prints them instead, and `--config`
    reads a file with the options as keys.

    Args:
        app: the group to add it to.
        name: its name.
        **how: passed to `typer.Typer.command`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, cls=ConfiguredCommand, **how)(_configured(function))
        return function

    return register


def _configured(function: Callable[..., None]) -> Callable[..., None]:
    """Wraps the function with one parameter per option, for typer."""
    hints = get_type_hints(function, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    makers: dict[str, Callable[[Mapping[str, Any]], object]] = {}
    plain: list[str] = []
    plan = True
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *extras = get_args(hints[name]) if get_origin(hints[name]) is Annotated else [hints[name]]
        if isinstance(kind, type) and issubclass(kind, Config):
            options = next((one for one in extras if isinstance(one, Options)), Options())
            parameters |= _parameters(kind, options)
            makers[name] = partial(_config, kind, options)
        elif overrides := next((one for one in extras if isinstance(one, Overrides)), None):
            for model, options in overrides.sections.values():
                parameters |= _parameters(model, options, shown="the recipe's")
            makers[name] = partial(_overrides, overrides)
            # The command resolves the recipe, so it prints the plan itself.
            plan = False
        else:
            parameters[name] = parameter.replace(kind=_KEYWORD, annotation=hints[name])
            plain.append(name)
    parameters["context"] = inspect.Parameter("context", _KEYWORD, annotation=typer.Context)
    parameters["config"] = inspect.Parameter("config", _KEYWORD, default=None, annotation=_CONFIG)

    def run(**values: Any) -> None:
        context: typer.Context = values["context"]
        # Options that were not given take the model's default.
        sources = {name: context.get_parameter_source(name) for name in values}
        given = {name: values[name] for name, source in sources.items() if source and source.name != "DEFAULT"}
        with friendly():
            made = {name: make(given) for name, make in makers.items()} | {name: values[name] for name in plain}
            if plan and any(getattr(one, "dry_run", False) for one in made.values()):
                from genprm.cli.plan import print_plan

                print_plan(made)
            else:
                function(**made)

    run.__doc__ = function.__doc__
    run.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    run.__signature__ = inspect.Signature(list(parameters.values()))  # pyright: ignore[reportFunctionMemberAccess]
    return run


def _config(model: type[Config], options: Options, given: Mapping[str, Any]) -> Config:
    """Builds a configuration from options."""
    return model.of({**options.defaults, **_given(model, options, given)})


def _overrides(overrides: Overrides, given: Mapping[str, Any]) -> dict[str, object]:
    """The overrides from options, in the recipe's structure."""
    changes: dict[str, object] = {}
    for section, (model, options) in overrides.sections.items():
        found = _given(model, options, given)
        if section and found:
            changes[section] = found
        elif found:
            changes |= found
    return changes


def _given(model: type[Config], options: Options, given: Mapping[str, Any]) -> dict[str, object]:
    """The fields set on the command line, in the environment or in a file."""
    fields = [name for name in model.model_fields if name not in options.without]
    return {name: given[options.name(name)] for name in fields if options.name(name) in given}


def _parameters(model: type[Config], options: Options, shown: str | None = None) -> dict[str, inspect.Parameter]:
    """The options of a configuration as parameters for typer: `model` first, then the class's own fields."""
    own = inspect.get_annotations(model)
    fields = sorted(model.model_fields.items(), key=lambda field: (field[0] != "model", field[0] not in own))
    made: dict[str, inspect.Parameter] = {}
    for field_name, info in fields:
        if field_name not in options.without:
            name = options.name(field_name)
            value = options.defaults.get(field_name, info.default)
            made[name] = _parameter(name, info, None if shown else value, shown or option_of(info).shown)
    return made


def _parameter(name: str, info: FieldInfo, default: object, shown: str | None) -> inspect.Parameter:
    extra = option_of(info)
    flag = f"--{name.replace('_', '-')}"
    flags = extra.flags or (f"{flag}/--no-{flag.removeprefix('--')}" if info.annotation is bool else flag,)
    kind = str if extra.text else _type_of(info.annotation)
    plain = default not in (None, (), "") and not isinstance(default, tuple)
    option = typer.Option(
        *flags,
        help=_help(info),
        envvar=f"GENPRM_{name.upper()}",
        show_envvar=False,
        metavar=extra.metavar,
        show_default=shown or (True if plain else "none"),
    )
    value = (str(default) if extra.text else default) if plain else None
    return inspect.Parameter(name, _KEYWORD, default=value, annotation=Annotated[kind | None, option])


def _help(info: FieldInfo) -> str | None:
    """A field's description and range. The model checks the range, because its message quotes the value."""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = [
        f"{word} {limit:g}"
        for one in info.metadata
        for sign, word in signs.items()
        if isinstance(limit := getattr(one, sign, None), (int, float))
    ]
    return f"{info.description} ({', '.join(limits)})" if limits and info.description else info.description


def _type_of(annotation: Any) -> Any:
    """The type that typer uses to parse a field."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    if get_origin(annotation) is tuple:
        return list[get_args(annotation)[0]]
    if get_origin(annotation) is Literal:
        return annotation
    parts = [one for one in get_args(annotation) if one is not NoneType]
    if get_origin(annotation) is Annotated or len(parts) == 1:
        return _type_of(parts[0])
    return Literal[tuple(value for part in parts for value in get_args(part))]


def _load_file(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the values of a file the command's defaults: flag > environment > file > default.

    Raises:
        typer.BadParameter: the file cannot be read, a key is not an option, or a value has the wrong type.
    """
    if path is None:
        return None
    try:
        found = read_yaml(path, "the file")
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    if found is None:
        return path
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{str(path)!r} must be a mapping of keys to values, not {found!r}")
    # Any flag of an option may be used as its key.
    parameters = {
        flag.lstrip("-").replace("-", "_"): one
        for one in context.command.params
        if one.name not in _NOT_IN_FILES
        for flag in (str(one.name), *one.opts)
    }
    defaults: dict[str, object] = {}
    for key, value in cast("dict[object, object]", found).items():
        name = str(key).replace("-", "_")
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1, cutoff=0.0)
            raise typer.BadParameter(f"{str(path)!r} has the unknown key {key!r}. The nearest one is {near[0]!r}.")
        parameter = parameters[name]
        several = parameter.nargs == -1 or getattr(parameter, "multiple", False)
        if isinstance(value, dict) or (isinstance(value, list) and not several):
            raise typer.BadParameter(f"{str(path)!r}: {key!r} cannot be {value!r}")
        one = [value] if several and value is not None and not isinstance(value, list) else value
        defaults[str(parameter.name)] = one
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


_CONFIG = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file with these options as keys. The command line overrides it.",
        callback=_load_file,
        is_eager=True,
        show_default="none",
    ),
]
