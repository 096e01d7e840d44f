"""Options that several commands share, spelled once; and recipes, YAML files that set them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer.core import TyperCommand

from genprm.cli.boundary import UsageError
from genprm.runs.keep import Keep

if TYPE_CHECKING:
    from pydantic import JsonValue

_NOT_IN_RECIPES = {"config", "help", "clean"}


EngineName = Literal["auto", "vllm", "openai", "transformers"]
SandboxName = Literal["auto", "docker", "bubblewrap"]
ModeName = Literal["direct", "analyze", "code", "execute", "auto"]
FamilyName = Literal[
    "genprm",
    "thinkprm",
    "critic",
    "implicit",
    "qwen-prm",
    "math-shepherd",
    "rlhflow",
    "skywork-prm",
    "versaprm",
    "token-classification",
]


def resolve_mode(mode: ModeName | None, with_code: bool | None) -> ModeName:
    """The mode that `--mode` and `--with-code/--no-code` ask for together.

    Raises:
        UsageError: they contradict each other.
    """
    if mode is None:
        return "analyze" if with_code is False else "execute"
    if with_code is not None and with_code != (mode in ("execute", "auto")):
        flag = "--with-code" if with_code else "--no-code"
        raise UsageError(f"--mode {mode} contradicts {flag}: give one of the two")
    return mode


ADAPTIVE = "adaptive"
ADAPTIVE_VOTES = 8
"""Votes at most where `adaptive` names no number: what the published results use."""


def resolve_votes(votes: str, confidence: float | None = None) -> tuple[int, float | None]:
    """What `--votes` and `--confidence` ask for: votes at most, and when to stop; None for never.

    Raises:
        UsageError: they make no sense.
    """
    word, _, number = votes.partition(":")
    adaptive = word == ADAPTIVE
    text = (number or str(ADAPTIVE_VOTES)) if adaptive else votes
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"votes are a number from 1, `adaptive` or `adaptive:N`, not {votes!r}")
    if confidence is not None and not adaptive:
        raise UsageError(f"--confidence {confidence:g} is for adaptive votes: --votes adaptive:{votes}")
    return int(text), (confidence or 1.0) if adaptive else None


class WithCodeAuto(TyperCommand):
    """A command that also takes `--with-code auto`, which is `--mode auto`.

    The flag alone takes no value, so that a file may follow it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Spells it out before the options are read."""
        for place in range(len(args) - 1):
            if args[place : place + 2] == ["--with-code", "auto"]:
                args = [*args[:place], "--mode", "auto", *args[place + 2 :]]
                break
        return super().parse_args(ctx, args)


def load_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the values of a recipe the defaults of the command: flag > file > default.

    Raises:
        typer.BadParameter: the file cannot be read, or has a key that is no option, or a value of the wrong shape.
    """
    if path is None:
        return None
    import yaml

    try:
        found: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{str(path)!r} is not YAML: {error}") from error
    if found is None:
        return path
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{str(path)!r} must hold keys and values, not {found!r}")
    parameters = {
        parameter.name: parameter for parameter in context.command.params if parameter.name not in _NOT_IN_RECIPES
    }
    defaults: dict[str, object] = {}
    for key, value in cast("dict[object, object]", found).items():
        name = str(key).replace("-", "_")
        if name not in parameters:
            near = difflib.get_close_matches(name, [str(known) for known in parameters], n=1, cutoff=0.0)
            raise typer.BadParameter(f"{str(path)!r} has the unknown key {key!r}. The nearest one is {near[0]!r}.")
        several = parameters[name].nargs == -1 or getattr(parameters[name], "multiple", False)
        if isinstance(value, dict) or (isinstance(value, list) and not several):
            raise typer.BadParameter(f"{str(path)!r}: {key!r} cannot be {value!r}")
        defaults[name] = [value] if several and value is not None and not isinstance(value, list) else value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def read_profile_file(path: Path | None) -> dict[str, JsonValue] | None:
    """The fields of a profile that a file changes.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    if path is None:
        return None
    import yaml

    try:
        found: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the profile {str(path)!r}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{str(path)!r} must hold fields of a profile and their values, not {found!r:.80}")
    return {str(name): value for name, value in cast("dict[object, JsonValue]", found).items()}


Model = Annotated[
    str,
    typer.Option(help="`nano` (the built-in model), a Hugging Face name such as GenPRM/GenPRM-7B, or a folder."),
]
Family = Annotated[
    FamilyName | None,
    typer.Option(
        "--prm",
        "--family",
        help="The kind of PRM that the model is taken as: `critic` takes any chat model, `implicit` any causal "
        "language model with a --reference.",
        show_default="what its genprm.json, its name or its architecture says",
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="The model that an implicit PRM was trained against: a Hugging Face name or a folder; `none` scores "
        "without one.",
        show_default="what is known of a released one",
    ),
]
ReferenceUrl = Annotated[
    list[str] | None,
    typer.Option(
        help="A server with the OpenAI completions API that serves the reference. Repeat it for several servers.",
        show_default="none",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model from Hugging Face.")]
Dtype = Annotated[str, typer.Option(help="Number type of the weights: auto, bfloat16, float16 or float32.")]
Engine = Annotated[
    EngineName,
    typer.Option(help="`auto`: openai with --base-url, else vllm where it is installed on a GPU, else transformers."),
]
BaseUrl = Annotated[
    list[str] | None,
    typer.Option(
        help="A server with the OpenAI completions API, like http://127.0.0.1:8000/v1. Repeat it for several servers.",
        show_default="none",
    ),
]
Sandbox = Annotated[
    SandboxName,
    typer.Option(help="What runs the code. `auto`: Docker where an engine answers, else bubblewrap."),
]
WithCode = Annotated[
    bool | None,
    typer.Option(
        "--with-code/--no-code",
        help="Let the model write Python that checks a step, and run it; `--with-code auto` does so where it pays.",
        show_default="with-code",
    ),
]
Mode = Annotated[
    ModeName | None,
    typer.Option(
        help="In detail: `execute` runs code, `code` lets it be written but not run, `analyze` goes without, "
        "`direct` asks for the verdict alone, `auto` runs code for the steps where it pays.",
        show_default="execute with code, analyze without",
    ),
]


def _check_votes(votes: str) -> str:
    try:
        resolve_votes(votes)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    return votes


Votes = Annotated[
    str,
    typer.Option(
        metavar="N|adaptive[:N]",
        callback=_check_votes,
        help="Independent chains a solution; their scores are averaged. `adaptive` stops voting on a step when the "
        "missing votes cannot flip its verdict (see --confidence); it asks for 8 at most, or N.",
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        min=0.5,
        max=1.0,
        help="With adaptive votes: how sure a verdict must be to stop; below 1, voting also stops when the missing "
        "votes will probably not flip it.",
        show_default="1",
    ),
]
Until = Annotated[
    Literal["end", "first-error"],
    typer.Option(help="`first-error` leaves out the steps after the first wrong one."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ray|ADDRESS",
        help="Open the model on the workers of a Ray cluster: `ray` for the one this machine belongs to (or one of its "
        "own), or an address like ray://head:10001.",
        show_default="none",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Workers of each model on the cluster.", show_default="one a GPU, or one a node without GPUs"
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, max=2.0, help="0 is greedy.", show_default="the model's own"),
]
Threshold = Annotated[float, typer.Option(min=0.0, max=1.0, help="A step that scores below this is judged wrong.")]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="A YAML or JSON file with fields of the family's protocol, such as `rounds: 4` or `per_step: true` of "
        "ThinkPRM, or a `template` for another domain.",
        show_default="the model's own",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option("--calibration", help="A file of `genprm calibrate`, applied to all scores.", show_default="none"),
]
Seed = Annotated[int, typer.Option(min=0, help="Makes sampling repeatable.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Read at most so many rows.", show_default="all")]
Concurrency = Annotated[
    int | None,
    typer.Option(min=1, help="Solutions in flight at once.", show_default="what keeps the engine full"),
]
KeepOption = Annotated[
    Keep, typer.Option(help="What rows keep: `full` (texts, code, output) or `scores` (about 100 bytes a step).")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the run. The same command goes on where it stopped.", show_default="runs/NAME-DIGEST"),
]
Clean = Annotated[bool, typer.Option("--clean", help="Delete the run that is in the folder, and start over.")]
Config = Annotated[
    Path | None,
    typer.Option(
        help="A YAML recipe with these options as keys. What stands on the command line wins.",
        callback=load_recipe,
        is_eager=True,
        show_default="none",
    ),
]
