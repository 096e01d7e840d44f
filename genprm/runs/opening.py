"""Opens a judge as the commands do: locally or on a cluster, calibrated, prepared, recorded in the run's folder."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from genprm.config import BUILT_IN, JudgeConfig
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
    """Opens a judge for the duration of a block.

        async with open_judge("GenPRM/GenPRM-7B", votes=8) as judge:
            await verify(rows, judge, Path("runs/a"))

    Args:
        config: the judge's configuration, or a model's name.
        seed: the engine's seed.
        run: the folder in which weights, engine and sandbox are recorded.
        rows: returns the rows to judge, if they can be read twice. An implicit PRM's reference then scores all of them
            first and is closed before the PRM opens.
        tell: called with one-line messages for the user about what was opened.
        **settings: fields of `JudgeConfig`, which override the configuration.

    Raises:
        ConfigError: a setting does not exist, is out of range, or contradicts another.
        PRMError: the family is unknown, or a setting does not apply to it.
        EngineError: the engine or the model does not load.
        SandboxError: no sandbox could be opened.
        CalibrationError: the calibration cannot be read.
        ClusterError: the cluster cannot be used.
        RunError: the folder has rows from other weights.
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
        if config.model == BUILT_IN and not config.mode.executes:
            tell(f"{BUILT_IN} judges by its code alone: when that is not run, it passes every step, right or wrong")
        if run is not None:
            _note(run, config, facts)
        yield prm
    finally:
        await prm.close()


def _note(run: RunFolder, config: JudgeConfig, facts: dict[str, JsonValue]) -> None:
    from genprm.prms.load import model_path
    from genprm.runs.provenance import weights_of

    # A server's weights are unknown. A folder may be moved, so its content counts, not its path.
    facts["weights"] = None if config.base_url else weights_of(model_path(config.model), config.revision)
    fixed = ("weights", "profile", "sampling", "engine", "family", *(["model"] if facts["weights"] is None else []))
    run.note(facts, fixed=fixed)
