#!/usr/bin/env python3
"""Generates the pages of docs/ that come from the code: one page per command, the configuration, and file formats.

usage: scripts/docs.py [--check]     --check fails if a page is out of date
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

# The help is as wide as these pages, on every machine.
os.environ |= {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}

import typer
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NOTE = "<!-- scripts/docs.py makes this page from the code; a test fails when it is out of date. -->\n\n"


def pages() -> dict[str, str]:
    """All generated pages by path below docs/."""
    commands = dict(_commands())
    index = "".join(f"- [genprm {name}]({name.replace(' ', '-')}.md): {text}\n" for name, (text, _) in commands.items())
    made = {f"commands/{name.replace(' ', '-')}.md": page for name, (_, page) in commands.items()}
    made["commands/README.md"] = f"{NOTE}# Commands\n\n{index}\nEach page is what `genprm COMMAND --help` prints.\n"
    made["configuration.md"] = _configuration()
    made["rows.md"] = _rows()
    return made


def _commands() -> Iterator[tuple[str, tuple[str, str]]]:
    from genprm.cli.main import app

    root = typer.main.get_command(app)

    def walk(command: Any, name: str, parent: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        context = command.context_class(
            command, info_name=name.rpartition(" ")[2], parent=parent, max_content_width=100
        )
        context.terminal_width = 100
        if hasattr(command, "commands"):
            for child, one in command.commands.items():
                yield from walk(one, f"{name} {child}".strip(), context)
            return
        text = command.get_help(context)
        words = name.removeprefix("genprm ")
        yield words, (_first(command.help or ""), f"{NOTE}# genprm {words}\n\n```text\n{text.rstrip()}\n```\n")

    yield from walk(root, "genprm", None)


def _configuration() -> str:
    from genprm import config

    parts = [
        f"{NOTE}# Configuration\n",
        "Each setting is one field of a model in `genprm.config`. It has the same name as a command's option "
        "(`--top-p`), as the key of a recipe or of `--config` (`top_p`), as an argument in Python (`top_p=0.9`), and "
        "as an environment variable (`GENPRM_TOP_P`). The command line wins over the environment, and both win over a "
        "file.\n\n"
        "Other variables: `GENPRM_DEBUG` (tracebacks and logs), `OPENAI_API_KEY` (for `--base-url`; `api_key_env` "
        "names another), `HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` (the Hub), `HTTPS_PROXY`, "
        "`NO_COLOR`, `COLUMNS`.\n",
    ]
    for model in (
        config.EngineConfig,
        config.SandboxConfig,
        config.ClusterConfig,
        config.JudgeConfig,
        config.PolicyConfig,
        config.RunConfig,
    ):
        above = {name for base in model.__mro__[1:] if hasattr(base, "model_fields") for name in base.model_fields}
        parts.append(f"## {model.__name__}\n\n{_summary(model)}\n")
        parts.append(_fields(model, without=above))
    return "\n".join(parts)


def _rows() -> str:
    from genprm.rpe import rows as data
    from genprm.runs import rows
    from genprm.runs.folder import RunInfo
    from genprm.search import rows as search

    parts = [
        f"{NOTE}# Rows of files\n",
        "A run's folder holds `run.json`, `rows.jsonl` (one JSON object a line), `failures.jsonl`, `metrics.json` and "
        "`report.html`. "
        "Steps are counted from 0 in files, as the benchmarks do, and from 1 in tables and pages.\n",
    ]
    groups = (
        ("run.json", (RunInfo,)),
        ("rows.jsonl of verify and bench", (rows.VerifyRow, rows.StepRow, rows.ChainRow, rows.CodeRow, rows.TokensRow)),
        ("failures.jsonl", (rows.FailureRow,)),
        ("rows.jsonl of search", (search.SearchRow, search.CandidateRow, search.NodeRow)),
        ("rows.jsonl of refine", (search.RefineRow, search.TurnRow)),
        ("rows.jsonl of label", (data.LabelRow, data.Samples, data.ValueRow, data.SolutionRow, data.StepLabelRow)),
        ("rows.jsonl of synthesize", (data.SynthesisRow, data.Message)),
    )
    for title, models in groups:
        parts.append(f"## {title}\n")
        for model in models:
            parts.append(f"### {model.__name__}\n\n{_summary(model)}\n")
            parts.append(_fields(model))
    return "\n".join(parts)


def _fields(model: type[BaseModel], without: set[str] | frozenset[str] = frozenset()) -> str:
    told = _attribute_docs(model)
    lines = ["| field | type | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name in without:
            continue
        text = field.description or told.get(name, "")
        default = "required" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        cells = (f"`{name}`", f"`{_type(field.annotation)}`", default, text)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field in the source."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            for match in re.finditer(r'^    (\w+): [^\n]*\n    """(.*?)"""', inspect.getsource(base), re.M | re.S):
                found[match[1]] = match[2]
    return found


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(str(one.value) for one in annotation)
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", str(annotation)).replace("NoneType", "None")


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _summary(model: type) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _first(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def main() -> int:
    """Writes the pages, or checks them."""
    made = pages()
    docs = ROOT / "docs"
    stale = [name for name, text in made.items() if not (docs / name).exists() or (docs / name).read_text() != text]
    stale += [
        f"commands/{file.name}" for file in (docs / "commands").glob("*.md") if f"commands/{file.name}" not in made
    ]
    if "--check" in sys.argv:
        if stale:
            print(f"out of date: {', '.join(stale)}; run scripts/docs.py", file=sys.stderr)
        return bool(stale)
    for name in stale:
        if name in made:
            (docs / name).parent.mkdir(exist_ok=True)
            (docs / name).write_text(made[name])
        else:
            (docs / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
