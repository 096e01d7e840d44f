"""`genprm sandbox`: run a file in the sandbox, attack it, measure it, serve it."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from genprm.cli.grammar import Command
from genprm.cli.sandbox_serve import serve
from genprm.cli.terminal import escaped, notes, stdout

app = typer.Typer(
    no_args_is_help=True,
    help="The sandbox that runs model-written code: try it, attack it, measure it, serve it to other machines.",
)
app.command(cls=Command)(serve)

Backend = Annotated[
    str,
    typer.Option(
        "--sandbox",
        help="auto (Docker, else bubblewrap, else Podman), docker, podman, bubblewrap, or where a service answers: "
        "https://HOST:PORT or unix:/PATH.",
        metavar="BACKEND",
    ),
]
Runtime = Annotated[
    str | None, typer.Option("--runtime", help="A container runtime that Docker or Podman knows, e.g. kata-runtime.")
]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


@app.command(cls=Command)
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Python file, or - for standard input.")],
    sandbox: Backend = "auto",
    runtime: Runtime = None,
    wall_s: Annotated[float, typer.Option(help="Wall time, in seconds.")] = 5.0,
    cpu_s: Annotated[float, typer.Option(help="CPU time, in seconds.")] = 5.0,
    memory_mb: Annotated[int, typer.Option(help="Memory, in MiB.")] = 1024,
    output_kb: Annotated[int, typer.Option(help="How much output is kept, in KiB.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Run one file and print its result. The exit code is 0 when it ran to its end, else 1."""
    from genprm.sandbox import Limits, Result, SandboxError, open_sandbox

    try:
        code = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        limits = Limits(wall_s=wall_s, cpu_s=cpu_s, memory_mb=memory_mb, output_kb=output_kb)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None

    async def work() -> tuple[Result, str]:
        async with open_sandbox(sandbox, limits=limits, lanes=1, runtime=runtime) as box, box.session() as session:
            return await session.run(code), box.note

    try:
        result, note = asyncio.run(work())
    except (SandboxError, ValueError) as error:
        typer.echo(escaped(f"error: {error}"), err=True)
        raise typer.Exit(2) from None
    if as_json:
        fields = {name: getattr(result, name) for name in ("status", "stdout", "error", "duration_s", "truncated")}
        typer.echo(json.dumps(fields))
    else:
        # A pipe gets the bytes that were printed, a terminal nothing that it would act on.
        printed = escaped(result.stdout) if sys.stdout.isatty() else result.stdout
        typer.echo(printed.encode("utf-8", "backslashreplace").decode(), nl=not result.stdout.endswith("\n"))
        summary = f"{result.status.value} in {result.duration_s * 1000:.1f} ms"
        typer.echo(escaped(summary + (f": {result.error}" if result.error else "") + f"  [{note}]"), err=True)
    raise typer.Exit(0 if result.ok else 1)


@app.command(cls=Command)
def attack(
    sandbox: Backend = "auto",
    runtime: Runtime = None,
    only: Annotated[str | None, typer.Option(help="Run only attacks whose names contain this.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the attack suite here and print what each attack achieved. The exit code is 0 when all were contained."""
    from rich.markup import escape
    from rich.table import Table

    from genprm.sandbox import SandboxError, open_sandbox
    from genprm.sandbox.attacks import ATTACK_LIMITS, ATTACKS, Outcome, run_attacks

    chosen = [one for one in ATTACKS if only is None or only in one.name]
    if not chosen:
        raise typer.BadParameter(f"no attack's name contains {only!r}")
    console = notes() if as_json else stdout()
    found: list[Outcome] = []
    table = Table(title="Attacks", show_lines=False)
    for column in ("attack", "tries", "outcome", "seconds", "canary"):
        table.add_column(column)

    def row(outcome: Outcome) -> tuple[str, ...]:
        result = outcome.result
        verdict = result.status.value if result else "none"
        if not outcome.contained:
            verdict = f"[red]NOT CONTAINED[/red] {verdict}: {escape('; '.join(outcome.failures))}"
        took = f"{result.duration_s:.2f}" if result else "-"
        return outcome.attack.name, outcome.attack.tries, verdict, took, f"{outcome.canary_s * 1000:.0f} ms"

    async def work() -> str:
        async with open_sandbox(sandbox, limits=ATTACK_LIMITS, lanes=1, runtime=runtime) as box:
            console.print(f"{box.note}; sessions kept apart by {box.isolation}")
            with console.status("attacking") as status:
                async for outcome in run_attacks(box, chosen):
                    found.append(outcome)
                    table.add_row(*row(outcome))
                    status.update(f"{table.row_count} of {len(chosen)}: {outcome.attack.name}")
            return box.note

    try:
        note = asyncio.run(work())
    except (SandboxError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    loose = sum(not outcome.contained for outcome in found)
    if as_json:
        rows = [
            {
                "attack": outcome.attack.name,
                "tries": outcome.attack.tries,
                "contained": outcome.contained,
                "failures": list(outcome.failures),
                "status": outcome.result and outcome.result.status,
                "canary_s": outcome.canary_s,
            }
            for outcome in found
        ]
        typer.echo(json.dumps({"sandbox": note, "contained": len(found) - loose, "attacks": rows}))
    else:
        console.print(table)
        console.print(f"{len(found) - loose} of {len(found)} attacks contained")
    raise typer.Exit(1 if loose else 0)


@app.command(cls=Command)
def bench(
    sandbox: Backend = "auto",
    runtime: Runtime = None,
    lanes: Annotated[int | None, typer.Option(help="Snippets that run at once; default: the number of cores.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each kind of snippet.")] = 3.0,
    as_json: AsJson = False,
) -> None:
    """Measure snippets per second and latency on this machine."""
    from rich.table import Table

    from genprm.sandbox import SandboxError, open_sandbox
    from genprm.sandbox.measure import SNIPPETS, Figures, measure_sessions

    async def work() -> tuple[str, dict[str, Figures]]:
        async with open_sandbox(sandbox, lanes=lanes, runtime=runtime) as box:
            await box.grow()
            return f"{box.note}; {box.lanes} lanes", {
                name: await measure_sessions(box, code, box.lanes, seconds) for name, code in SNIPPETS.items()
            }

    try:
        note, figures = asyncio.run(work())
    except (SandboxError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps({"sandbox": note, "snippets": {name: asdict(one) for name, one in figures.items()}}))
        return
    table = Table(title=note)
    for column in ("snippet", "p50 ms", "p99 ms", "a second"):
        table.add_column(column, justify="left" if column == "snippet" else "right")
    for name, one in figures.items():
        table.add_row(name, f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}", f"{one.per_s:.0f}")
    stdout().print(table)
