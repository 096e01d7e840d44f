"""The same run over a Ray cluster: a judge whose work is done by actors, each with an engine and a sandbox of its own.

The driver, its rows and its folder are those of a run on one machine; only the judge is another one. A worker that
dies is replaced, and what it had in hand is judged again by the others: no row is lost, and none is written twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from genprm.prms.base import PRM, PRMError
from genprm.types import Judgement

logger = logging.getLogger(__name__)

LOCAL = "ray"
"""The address that means: the cluster this machine belongs to, or else a Ray of its own."""
RETRIES = 3
"""Workers that may die under one solution before the solution is given up: it may be what kills them."""
REPLACEMENTS = 8
"""Workers that are replaced in one run."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached, has no room for a worker, or loses workers faster than they can be replaced."""


class _Worker:
    """What runs in an actor: a judge, opened where it works."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self._model = model
        self._options = options
        self._prm: PRM | None = None

    async def open(self) -> tuple[str, int, dict[str, Any]]:
        """Loads the judge; its name, its capacity and the facts about it."""
        from genprm.prms import load_prm
        from genprm.provenance import facts_of

        self._prm = await load_prm(self._model, **self._options)
        return self._prm.name, self._prm.capacity, facts_of(self._prm)

    async def judge(self, problem: str, steps: list[str], seed: int) -> Judgement:
        """Judges one solution."""
        assert self._prm is not None
        return await self._prm.judge(problem, steps, seed=seed)

    async def close(self) -> None:
        """Closes the judge."""
        if self._prm is not None:
            await self._prm.close()

    def pid(self) -> int:
        """The process of this worker."""
        import os

        return os.getpid()


class ClusterPRM:
    """A judge over the workers of a Ray cluster. Open it with `load_cluster`."""

    def __init__(self, actor_class: Any, arguments: tuple[str, dict[str, Any]]) -> None:
        self._actor_class = actor_class
        self._arguments = arguments
        self._in_flight: dict[Any, int] = {}
        self._left = REPLACEMENTS
        self._replacing: set[asyncio.Task[None]] = set()
        self.name = arguments[0]
        self.capacity = 0
        self.facts: dict[str, Any] = {}
        """How the workers judge: see `genprm.provenance.facts_of`."""

    @property
    def workers(self) -> list[Any]:
        """The actors that are alive, as far as this process knows."""
        return list(self._in_flight)

    async def start(self, workers: int) -> None:
        """Starts the workers side by side.

        Raises:
            ClusterError: one of them does not start.
        """
        await asyncio.gather(*(self._start_one() for _ in range(workers)))

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges a solution on the least busy worker; see `genprm.prms.base.PRM`."""
        from ray.exceptions import RayActorError

        for _ in range(RETRIES):
            worker = await self._least_busy()
            self._in_flight[worker] += 1
            try:
                return await worker.judge.remote(problem, list(steps), seed)
            except RayActorError as error:
                self._bury(worker, error)
            finally:
                if worker in self._in_flight:
                    self._in_flight[worker] -= 1
        raise ClusterError(f"{RETRIES} workers died while they judged this solution")

    async def close(self) -> None:
        """Closes the workers' judges and ends the workers."""
        import ray

        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*(worker.close.remote() for worker in self._in_flight), return_exceptions=True)
        for worker in self._in_flight:
            ray.kill(worker)
        self._in_flight.clear()

    async def _start_one(self) -> None:
        worker = self._actor_class.remote(*self._arguments)
        try:
            self.name, capacity, facts = await worker.open.remote()
        except Exception as error:
            raise ClusterError(f"a worker did not start: {error}") from error
        self._in_flight[worker] = 0
        self.capacity += capacity
        self.facts = facts | {"capacity": self.capacity}

    async def _least_busy(self) -> Any:
        while not self._in_flight:
            if not self._replacing:
                raise ClusterError(f"no worker is left: {REPLACEMENTS} were replaced already")
            await asyncio.wait(self._replacing, return_when=asyncio.FIRST_COMPLETED)
        return min(self._in_flight, key=self._in_flight.__getitem__)

    def _bury(self, worker: Any, error: Exception) -> None:
        """Takes a dead worker off the list, once, and starts another in its place."""
        if self._in_flight.pop(worker, None) is None:
            return
        logger.warning("a worker died, and is replaced: %s", str(error).splitlines()[0])
        if self._left > 0:
            self._left -= 1
            task = asyncio.create_task(self._replace())
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace(self) -> None:
        try:
            await self._start_one()
        except ClusterError:
            logger.exception("the worker that was to replace a dead one did not start")


async def load_cluster(
    address: str, model: str, *, workers: int | None = None, gpus_per_worker: float | None = None, **options: Any
) -> ClusterPRM:
    """Opens a judge over a Ray cluster.

    Args:
        address: `ray` for the cluster that this machine belongs to (or a Ray of its own where there is none), or the
            address of a cluster, such as `ray://head:10001`.
        model: as for `load_prm`.
        workers: how many; by default one a GPU, or one a node of a cluster without GPUs.
        gpus_per_worker: GPUs that each worker takes; by default one where the cluster has any.
        **options: of `load_prm`, which every worker calls with them.

    Raises:
        ClusterError: Ray is not installed, the cluster cannot be reached, or a worker does not start.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError("Ray is not installed: pip install 'genprm[ray]'") from error
    if workers is not None and workers < 1:
        raise PRMError(f"workers must be at least 1, not {workers!r}")
    if not ray.is_initialized():
        try:
            await asyncio.to_thread(_init, None if address == LOCAL else address)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(f"no Ray cluster answers at {address!r}: {error}") from error
    total = ray.cluster_resources()
    gpus = float(total.get("GPU", 0.0))
    each = gpus_per_worker if gpus_per_worker is not None else (1.0 if gpus else 0.0)
    nodes = sum(1 for name in total if name.startswith("node:") and name != "node:__internal_head__")
    count = workers or max(1, int(gpus // each) if each else nodes)
    cpus = float(total.get("CPU", 0.0))
    # Ray would let the workers that find no room wait for ever.
    if count > cpus or count * each > gpus:
        raise ClusterError(
            f"the cluster has no room for {count} workers of one CPU and {each:g} GPUs: it has {cpus:g} CPUs and "
            f"{gpus:g} GPUs"
        )
    actor_class: Any = ray.remote(_Worker)
    prm = ClusterPRM(actor_class.options(num_gpus=each, num_cpus=1, max_concurrency=4096), (model, options))
    try:
        await prm.start(count)
    except BaseException:
        await prm.close()
        raise
    return prm


def _init(address: str | None) -> None:
    import ray

    if address is None:
        try:
            # The cluster of this machine, where one runs (`ray start`).
            ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
