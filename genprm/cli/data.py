"""What `label` and `synthesize` share: opening their models."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli.boundary import UsageError
from genprm.cli.verify import tell
from genprm.config import ClusterConfig, EngineConfig

if TYPE_CHECKING:
    from pathlib import Path

    from genprm.engines import Engine

PushToHub = Annotated[str | None, typer.Option(help="A dataset repository to push the result to.", show_default="none")]


async def open_models(stack: AsyncExitStack, cluster: ClusterConfig, *models: EngineConfig, seed: int) -> list[Engine]:
    """Opens models, each on its servers if it has any, else on its own workers if there is a cluster.

    Args:
        stack: closes them.
        cluster: the cluster, if there is one.
        *models: the models.
        seed: the seed of requests without one.

    Raises:
        UsageError: there is a cluster, but every model has a server already.
        EngineError: a model cannot be opened.
        ClusterError: the cluster cannot be used.
    """
    from genprm.cluster import load_cluster_engine
    from genprm.engines import open_engine

    local = sum(not config.base_url for config in models)
    if cluster.cluster is not None and not local:
        raise UsageError(f"--cluster {cluster.cluster!r} has nothing to open: every model has a server")
    opened: list[Engine] = []
    for config in models:
        if cluster.cluster is not None and not config.base_url:
            workers = cluster.workers
            engine = await load_cluster_engine(cluster.cluster, config, workers=workers, models=local, seed=seed)
            tell(f"Cluster: {len(engine.workers)} workers with {config.model}")
        else:
            engine = await open_engine(config, seed=seed)
        stack.push_async_callback(engine.close)
        opened.append(engine)
    return opened


def workers_of(*engines: Engine) -> int:
    """How many machines' worth of work keeps these engines busy."""
    from genprm.cluster import ClusterEngine

    return max(len(engine.workers) if isinstance(engine, ClusterEngine) else 1 for engine in engines)


def push(folder: Path, repository: str | None) -> None:
    """Pushes a data set if a repository is given.

    Raises:
        DatasetError: the Hub refuses it.
    """
    if repository is not None:
        from genprm.rpe.dataset import push

        push(folder, repository)
