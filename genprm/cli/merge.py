"""`genprm merge`: merges shards judged by several drivers into one run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from genprm.cli.boundary import friendly, notes, stdout
from genprm.cli.terminal import counted

if TYPE_CHECKING:
    from genprm.data.inputs import BadRow, InputRow
    from genprm.runs.folder import RunInfo


def merge(
    run: Annotated[Path, typer.Argument(help="Folder of the run: `--out` of its shards.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Merges the shards of a run (`genprm verify ... --shard K/N`) into the run that one driver would have written.

    The result has every row of the input exactly once, in order; a row in no shard, or in two, is an error. The shards
    are kept. The same command without --shard resumes the merged run.
    """
    with friendly():
        _merge(run, as_json=as_json)


def _merge(run: Path, *, as_json: bool) -> None:
    from genprm.benchmarks.metrics import Tally
    from genprm.cli import summary
    from genprm.cli.session import print_json
    from genprm.report import write_page
    from genprm.runs.folder import FAILURES, METRICS, REPORT, read_ordered, read_rows_of, write_atomically
    from genprm.runs.rows import FailureRow, VerifyRow
    from genprm.runs.shards import merge as join

    merged = join(run, _input)
    failures = list(read_rows_of(run, FailureRow, FAILURES))
    tally = Tally()
    for row in read_ordered(run, VerifyRow):
        tally.add(row)
    metrics = tally.metrics(failed=len(failures))
    write_atomically(run / METRICS, metrics.model_dump_json(indent=2))
    write_page(run / REPORT, info=merged.info, metrics=metrics, rows=read_ordered(run, VerifyRow), failures=failures)
    if not merged.in_input:
        notes().print("The input cannot be read again, so it is unknown whether all of its rows were judged.")
    if as_json:
        print_json(merged.info.command, merged.info.config, metrics.model_dump(mode="json"))
    else:
        summary.print_summary(stdout(), metrics)
    summary.print_failures(notes(), failures, str(run / FAILURES))
    said = notes() if as_json else stdout()
    said.print(f"{counted(merged.shards, 'shard')} merged, page: {run / REPORT}", soft_wrap=True)


def _input(info: RunInfo) -> Iterable[InputRow | BadRow] | None:
    """The run's input rows, if their files can be read again."""
    from genprm.data.inputs import read_rows
    from genprm.data.records import can_be_read_twice

    config = info.config
    entries = cast("list[str | dict[str, str]]", config["files"])
    files = [entry if isinstance(entry, str) else entry["file"] for entry in entries]
    if not can_be_read_twice(files):
        return None
    limit, sample, seed = (cast("int | None", config.get(name)) for name in ("limit", "sample", "seed"))
    return read_rows(files, limit=limit, sample=sample, seed=seed or 0)
