"""Opens a judge as the commands do: here or on a cluster, calibrated, prepared, and noted in the run's folder."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from genprm.config import JudgeConfig
from genprm.data.inputs import BadRow, InputRow
from genprm.prms.base import PRM
from genprm.runs.folder import RunFolder

if TYPE_CHECKING:
    from pydantic import JsonValue


@asynccontextmanager
async def open_judge(
    config: JudgeConfig | str | None = None,
    *,
    seed: int = 0,
    run: RunFolder | None = None,
    rows: Callable[[], Iterable[InputRow | BadRow]] = tuple,
    tell: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> AsyncGenerator[PRM]:
    """A judge, open for as long as the block lasts.

        async with open_judge("GenPRM/GenPRM-7B", votes=8) as judge:
            await verify(rows, judge, Path("runs/a"))

    Args:
        config: which model, and how it judges; or a model's name.
        seed: the engine's.
        run: the folder in which is noted what the configuration came to: weights, engine, sandbox.
        rows: gives the rows that will be judged, where they can be read twice. An implicit PRM's reference is then
            asked about all of them first, and makes room for the PRM.
        tell: told, in one line each, what the user should know about what was opened.
        **settings: fields of `JudgeConfig`, in place of the configuration's.

    Raises:
        ConfigError: a setting does not exist, is out of range, or contradicts another.
        PRMError: the family is not known, or a setting does not fit it.
        EngineError: the engine or the model does not load.
        SandboxError: no sandbox could be opened.
        CalibrationError: the calibration cannot be read.
        ClusterError: the cluster cannot be used.
        RunError: the folder holds rows of other weights.
    """
    from genprm.cluster import load_cluster
    from genprm.prms.calibration import CalibratedPRM
    from genprm.prms.implicit.judge import ImplicitPRM
    from genprm.prms.load import load_prm, resolve

    config = resolve(config, settings)
    prm: PRM
    if config.cluster is not None:
        cluster = await load_cluster(config.cluster, config, workers=config.workers, seed=seed)
        tell(f"Cluster: {len(cluster.workers)} workers")
        prm = cluster
    else:
        prm = await load_prm(config, seed=seed, lazy=True)
    try:
        scorer = prm.prm if isinstance(prm, CalibratedPRM) else prm
        if isinstance(scorer, ImplicitPRM):
            done = set[str]() if run is None else run.done
            left = (row for row in rows() if isinstance(row, InputRow) and row.key not in done)
            await scorer.prepare((row.problem, row.steps) for row in left)
            await scorer.model.open()
        facts = dict(prm.facts)
        note = facts.pop("sandbox_note", None)
        if note and config.sandbox == "auto":
            tell(f"Sandbox: {note}")
        if run is not None:
            _note(run, config, facts)
        yield prm
    finally:
        await prm.close()


def _note(run: RunFolder, config: JudgeConfig, facts: dict[str, JsonValue]) -> None:
    from genprm.prms.load import model_path
    from genprm.runs.provenance import weights_of

    # What a server has loaded is its own affair. A folder may be moved, so its content counts and not its name.
    facts["weights"] = None if config.base_url else weights_of(model_path(config.model), config.revision)
    fixed = ("weights", "profile", "sampling", "engine", "family", *(["model"] if facts["weights"] is None else []))
    run.note(facts, fixed=fixed)
