"""What the commands that make data share, `label` and `synthesize`: where their models run, and how a run ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli import options
from genprm.cli.boundary import UsageError, stderr, stdout

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.engines import Engine
    from genprm.runs.folder import RunFolder

FREE = ("limit", "concurrency", "cluster", "workers")
"""Options of both that do not change results: they may differ when a run goes on."""

PushToHub = Annotated[str | None, typer.Option(help="A dataset repository to push the result to.", show_default="none")]


@dataclass(frozen=True, slots=True)
class Models:
    """How the models of a command are opened: the options that concern all of them."""

    engine: options.EngineName
    dtype: str
    cluster: str | None
    workers: int | None
    seed: int

    def __post_init__(self) -> None:
        if self.workers is not None and self.cluster is None:
            raise UsageError(f"--workers {self.workers} is for --cluster")

    def config(self) -> dict[str, JsonValue]:
        """What a run's folder keeps of it."""
        return asdict(self)

    async def open(self, stack: AsyncExitStack, *models: tuple[str, Sequence[str]]) -> list[Engine]:
        """Opens models, each on the servers it is given, else on workers of its own where there is a cluster.

        Args:
            stack: closes them.
            *models: the name or folder of each, and the base URLs of its servers.

        Raises:
            UsageError: there is a cluster, and nothing to be done on it.
            EngineError: a model cannot be opened.
            ClusterError: the cluster cannot be used.
        """
        from genprm.cluster import load_cluster_engine
        from genprm.engines import BUILT_IN, load_engine

        local = sum(not urls for _, urls in models)
        if self.cluster is not None and not local:
            raise UsageError(f"--cluster {self.cluster!r} has nothing to open: every model has a server already")
        opened: list[Engine] = []
        for name, urls in models:
            if self.cluster is not None and not urls:
                engine = await load_cluster_engine(
                    self.cluster,
                    name,
                    workers=self.workers,
                    models=local,
                    kind=self.engine,
                    seed=self.seed,
                    dtype=self.dtype,
                )
                stderr().print(f"Cluster: {len(engine.workers)} workers with {name}", soft_wrap=True)
            else:
                engine = await load_engine(
                    self.engine,
                    name,
                    base_urls=urls,
                    tokenizer=name if urls and name not in BUILT_IN else None,
                    seed=self.seed,
                    dtype=self.dtype,
                )
            stack.push_async_callback(engine.close)
            opened.append(engine)
        return opened


def workers_of(*engines: Engine) -> int:
    """How many times the work of one machine keeps these engines busy."""
    from genprm.cluster import ClusterEngine

    return max(len(engine.workers) if isinstance(engine, ClusterEngine) else 1 for engine in engines)


def texts(value: JsonValue) -> list[str]:
    """A list of texts from a run's configuration."""
    return [str(item) for item in value] if isinstance(value, list) else []


def finish(
    run: RunFolder, metrics: Mapping[str, int | float], seconds: float, folder: Path, push_to_hub: str | None
) -> None:
    """Writes the metrics, prints what the run came to, and pushes its data set.

    Args:
        run: the folder.
        metrics: counts of all rows.
        seconds: that this run took.
        folder: of the data set.
        push_to_hub: the repository it is pushed to; None for none.

    Raises:
        DatasetError: the Hub refuses.
    """
    from genprm.cli import summary
    from genprm.runs.folder import FAILURES, METRICS, read_rows_of, write_atomically
    from genprm.runs.rows import FailureRow

    write_atomically(run.path / METRICS, json.dumps({**metrics, "seconds": round(seconds, 1)}, indent=2))
    for name, value in metrics.items():
        stdout().print(f"{name.replace('_', ' '):28} {value}")
    summary.print_failures(stderr(), read_rows_of(run.path, FailureRow, FAILURES), str(run.path / FAILURES))
    stdout().print(f"data set: {folder}", soft_wrap=True)
    if push_to_hub is not None:
        from genprm.rpe.dataset import push

        push(folder, push_to_hub)
