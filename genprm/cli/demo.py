"""`genprm demo`: the first command after the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genprm.cli.boundary import FAILED, friendly, stdout


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; an existing one is replaced.")] = Path(
        "runs/demo"
    ),
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Judges the twelve solutions in the package with the built-in model, and really runs its code."""
    from genprm.data.shipped import shipped
    from genprm.runs.folder import REPORT

    with friendly():
        examples = shipped("builtin:solutions", "examples")
    command = ["verify", examples, "--with-code", "--out", str(out), "--clean"]
    stdout().print(f"[dim]$ genprm {' '.join(command)}[/]", soft_wrap=True)
    root = context.find_root()
    # The same command, run in this process.
    code = root.command.main(command, prog_name="genprm", standalone_mode=False)
    if code:
        raise typer.Exit(code if isinstance(code, int) else FAILED)
    if open_:
        typer.launch((out / REPORT).resolve().as_uri())
    else:
        stdout().print("Next: open the page; then `genprm verify yours.jsonl --model ...` (genprm verify --help).")
