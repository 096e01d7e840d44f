"""Runs over a Ray cluster: every worker is an actor with its own judge or engine.

The driver, the rows and the folder are the same as on one machine; only the judge (`ClusterPRM`) or the engine
(`ClusterEngine`) differs. A worker that dies is replaced and its calls are repeated on others, so that no row is lost
or written twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from genprm.config import EngineConfig, JudgeConfig
from genprm.engines.base import Completion, Sampling
from genprm.engines.routing import Router, Server
from genprm.prms.base import PRMError
from genprm.types import Judgement

if TYPE_CHECKING:
    from genprm.engines.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

LOCAL = "ray"
"""Address meaning the cluster that this machine belongs to; without one, a local Ray is started."""
RETRIES = 3
"""Workers that may die during one call before it fails: the call may be what kills them."""
REPLACEMENTS = 8
"""Most workers replaced in one run."""
START_S = 3600.0
"""Seconds in which a worker must find room and open its resource: large models take long to load."""
CLOSE_S = 60.0
"""Seconds that workers get to close their resources before they are killed."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached, has no room for a worker, or loses workers faster than they can be replaced."""


class Resource(Protocol):
    """What a worker opens and calls: a judge or an engine."""

    async def close(self) -> None:
        """Frees it."""
        ...


Opening = Callable[[], Awaitable[tuple[Resource, dict[str, Any]]]]
"""Opens the resource of a worker and returns it with facts for the driver. It is pickled and called in the worker."""


class _Worker:
    """The code that runs in an actor."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._resource: Resource | None = None

    async def open(self) -> dict[str, Any]:
        """Opens the resource and returns the facts about it."""
        self._resource, facts = await self._opening()
        return facts

    async def call(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Calls an async method of the resource."""
        return await getattr(self._resource, method)(*arguments, **named)

    async def close(self) -> None:
        """Closes the resource."""
        if self._resource is not None:
            await self._resource.close()

    def pid(self) -> int:
        """The process id of this worker."""
        import os

        return os.getpid()


class Workers:
    """Interchangeable actors, each with its own copy of a resource.

    Args:
        actor_class: a Ray actor class of `_Worker`.
        opening: opens the resource of each.
        start_s: seconds within which a worker must start.
    """

    def __init__(self, actor_class: Any, opening: Opening, *, start_s: float = START_S) -> None:
        self._actor_class = actor_class
        self._opening = opening
        self._start_s = start_s
        self._actors: dict[Server, Any] = {}
        # Calls of one chain go to the worker that has its prefix cached, as with servers.
        self._router = Router(())
        self._left = REPLACEMENTS
        self._replacing: set[asyncio.Task[None]] = set()
        self.facts: dict[str, Any] = {}
        """Facts that the worker started last reported about its resource."""

    @property
    def actors(self) -> list[Any]:
        """The actors assumed to be alive."""
        return list(self._actors.values())

    async def start(self, count: int) -> None:
        """Starts `count` workers concurrently. When one fails, those that are still starting are killed.

        Raises:
            ClusterError: a worker does not start.
        """
        starts = [asyncio.create_task(self._start_one()) for _ in range(count)]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def call(self, method: str, *arguments: Any, chain: str | None = None, **named: Any) -> Any:
        """Calls a method of one worker's resource; when that worker dies, the call is repeated on another.

        Exceptions of the method are raised here.

        Args:
            method: name of an async method.
            *arguments: positional arguments.
            chain: calls of one chain go to the same worker while it lives; others go to the least busy one.
            **named: keyword arguments.

        Raises:
            ClusterError: `RETRIES` workers died during the call, or no worker is left.
        """
        from ray.exceptions import RayActorError

        for _ in range(RETRIES):
            worker = await self._pick(chain)
            worker.in_flight += 1
            try:
                return await self._actors[worker].call.remote(method, arguments, named)
            except RayActorError as error:
                self._bury(worker, error)
            finally:
                worker.in_flight -= 1
        raise ClusterError(f"{RETRIES} workers died during one call of {method!r}")

    async def close(self) -> None:
        """Closes the resources and kills the actors."""
        import ray

        replacing = list(self._replacing)
        for task in replacing:
            task.cancel()
        await asyncio.gather(*replacing, return_exceptions=True)
        closing = [asyncio.ensure_future(actor.close.remote()) for actor in self.actors]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_S)
        for future in closing:
            if not future.cancel() and not future.cancelled():
                future.exception()  # marks it as seen: the worker is killed anyway
        for actor in self.actors:
            ray.kill(actor)
        self._set({})

    def _set(self, actors: dict[Server, Any]) -> None:
        self._actors = actors
        self._router.servers = tuple(actors)

    async def _start_one(self) -> None:
        import ray

        actor = self._actor_class.remote(self._opening)
        limit = asyncio.timeout(self._start_s)
        try:
            async with limit:
                self.facts = await actor.open.remote()
        except BaseException as error:
            # Also when cancelled: otherwise it would start later, and keep its GPU.
            ray.kill(actor)
            if limit.expired():
                reason = f"it did not open within {self._start_s:g} s. Is there room on the cluster (`ray status`)?"
                raise ClusterError(f"a worker did not start: {reason}") from error
            if isinstance(error, Exception):
                raise ClusterError(f"a worker did not start: {error}") from error
            raise
        self._set({**self._actors, Server(str(actor)): actor})

    async def _pick(self, chain: str | None) -> Server:
        while (worker := self._router.pick(chain)) is None:
            if not self._replacing:
                raise ClusterError(f"no worker is left: {REPLACEMENTS} have been replaced already")
            await asyncio.wait(self._replacing, return_when=asyncio.FIRST_COMPLETED)
        return worker

    def _bury(self, worker: Server, error: Exception) -> None:
        """Removes a dead worker and starts another one in its place. Only the first call for a worker has an effect."""
        if worker not in self._actors:
            return
        import ray

        # It may be only unreachable (`ActorUnavailableError`): as long as it lives, its successor finds no free GPU.
        ray.kill(self._actors[worker])
        self._set({other: actor for other, actor in self._actors.items() if other is not worker})
        logger.warning("a worker died and is being replaced: %s", str(error).splitlines()[0])
        if self._left > 0:
            self._left -= 1
            task = asyncio.create_task(self._replace())
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace(self) -> None:
        try:
            await self._start_one()
        except ClusterError:
            logger.exception("the replacement of a dead worker did not start")


class ClusterPRM:
    """A judge over the workers of a Ray cluster. Each has its own engine and sandbox. Open it with `load_cluster`."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.name: str = workers.facts["model"]
        self.capacity: int = workers.facts["capacity"] * len(workers.actors)

    @property
    def facts(self) -> dict[str, Any]:
        """How the workers judge; see `genprm.prms.base.PRM`."""
        return self._workers.facts | {"capacity": self.capacity}

    @property
    def workers(self) -> list[Any]:
        """The actors assumed to be alive."""
        return self._workers.actors

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges a solution on the least busy worker; see `genprm.prms.base.PRM`."""
        return await self._workers.call("judge", problem, list(steps), seed=seed)

    async def close(self) -> None:
        """Closes the workers' judges and ends the workers."""
        await self._workers.close()


class ClusterEngine:
    """An engine over the workers of a Ray cluster, each with its own. Open it with `load_cluster_engine`."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.tokenizer: Tokenizer = workers.facts["tokenizer"]
        self.model_name: str = workers.facts["model_name"]
        self.max_model_len: int = workers.facts["max_model_len"]
        self.capacity: int = workers.facts["capacity"] * len(workers.actors)
        cached: int | None = workers.facts["cache_tokens"]
        self.cache_tokens = None if cached is None else cached * len(workers.actors)
        self.kind: str = workers.facts["kind"]
        """The engine of the workers: `vllm` or `transformers`."""

    @property
    def workers(self) -> list[Any]:
        """The actors assumed to be alive."""
        return self._workers.actors

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        """Continues a prompt: see `genprm.engines.base.Engine`."""
        return await self._workers.call("generate", list(prompt_ids), sampling, chain=chain)

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        """Scores next tokens: see `genprm.engines.base.Engine`."""
        return await self._workers.call("choice_logprobs", list(prompt_ids), list(choices), chain=chain)

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Scores the tokens of a prompt: see `genprm.engines.base.Engine`."""
        return await self._workers.call("prompt_logprobs", list(ids))

    async def close(self) -> None:
        """Closes the workers' engines and ends the workers."""
        await self._workers.close()


async def load_cluster(
    address: str,
    model: str | JudgeConfig,
    *,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    **options: Any,
) -> ClusterPRM:
    """Opens a judge over a Ray cluster.

    Args:
        address: `ray` for the cluster that this machine belongs to (a local Ray is started without one), or the address
            of a cluster, such as `ray://head:10001`.
        model: as for `load_prm`.
        workers: number of workers; by default one per GPU, or one per node of a cluster without GPUs.
        gpus_per_worker: GPUs of each worker; by default one if the cluster has any.
        **options: options of `load_prm`, which every worker calls.

    Raises:
        ClusterError: Ray is not installed, the cluster cannot be reached, or a worker does not start.
    """
    return ClusterPRM(await _start(address, partial(_open_judge, model, options), workers, gpus_per_worker))


async def load_cluster_engine(
    address: str,
    config: EngineConfig,
    *,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    models: int = 1,
    seed: int = 0,
) -> ClusterEngine:
    """Opens an engine over a Ray cluster. It generates the same text as a single engine.

    Args:
        address: see `load_cluster`.
        config: the model, and what every worker opens it with.
        workers: see `load_cluster`.
        gpus_per_worker: see `load_cluster`.
        models: number of engines that share the cluster, including this one; each gets an equal part of it.
        seed: the engines' seed.

    Raises:
        ClusterError: Ray is not installed, the cluster cannot be reached, or a worker does not start.
    """
    opening = partial(_open_engine, config, seed)
    return ClusterEngine(await _start(address, opening, workers, gpus_per_worker, models))


async def _open_judge(model: str | JudgeConfig, options: dict[str, Any]) -> tuple[Resource, dict[str, Any]]:
    from genprm.prms import load_prm

    prm = await load_prm(model, **options)
    return prm, prm.facts


async def _open_engine(config: EngineConfig, seed: int) -> tuple[Resource, dict[str, Any]]:
    from genprm.engines import open_engine

    engine = await open_engine(config, seed=seed)
    names = ("kind", "tokenizer", "model_name", "max_model_len", "capacity", "cache_tokens")
    return engine, {name: getattr(engine, name) for name in names}


async def _start(
    address: str, opening: Opening, workers: int | None, gpus_per_worker: float | None, models: int = 1
) -> Workers:
    """Starts workers, after checking that the cluster has room for them."""
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
    count = workers or max(1, (int(gpus // each) if each else nodes) // models)
    cpus = float(total.get("CPU", 0.0))
    # Without this check, Ray would wait forever for resources that the cluster does not have.
    if count * models > cpus or count * models * each > gpus:
        raise ClusterError(
            f"the cluster has no room for {count * models} workers of one CPU and {each:g} GPUs: it has {cpus:g} CPUs "
            f"and {gpus:g} GPUs"
        )
    actor_class: Any = ray.remote(_Worker)
    started = Workers(actor_class.options(num_gpus=each, num_cpus=1, max_concurrency=4096), opening)
    try:
        await started.start(count)
    except BaseException:
        await started.close()
        raise
    return started


def _init(address: str | None) -> None:
    import ray

    if address is None:
        try:
            # The cluster of this machine, if one runs (`ray start`).
            ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
