"""Which model judges, and how: what `verify` and the benchmarks have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genprm.cli import options
from genprm.cli.boundary import UsageError, stderr

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.data.inputs import BadRow, InputRow
    from genprm.prms.base import PRM
    from genprm.runs.folder import RunFolder

FREE = ("limit", "concurrency", "sandbox", "base_url", "reference_url", "cluster", "workers")
"""Options that do not change results: they may differ when a run goes on."""


@dataclass(frozen=True, slots=True)
class Judging:
    """How solutions are judged: the options that concern the model."""

    model: str
    family: options.FamilyName | None
    revision: str | None
    dtype: str
    engine: options.EngineName
    base_url: tuple[str, ...]
    sandbox: options.SandboxName
    mode: options.ModeName
    votes: int
    temperature: float | None
    threshold: float
    calibration: Path | None = None
    profile: Path | None = None
    reference: str | None = None
    reference_url: tuple[str, ...] = ()
    until: Literal["end", "first-error"] = "end"
    confidence: float | None = None
    """When votes stop; None for never."""
    cluster: str | None = None
    workers: int | None = None

    def config(self) -> dict[str, JsonValue]:
        """What a run's folder keeps of it."""
        return {
            "model": self.model,
            "family": self.family,
            "reference": self.reference,
            "revision": self.revision,
            "dtype": self.dtype,
            "engine": "openai" if self.base_url else self.engine,
            "base_url": list(self.base_url),
            "reference_url": list(self.reference_url),
            "sandbox": self.sandbox,
            "mode": self.mode,
            "votes": self.votes,
            "temperature": self.temperature,
            "confidence": self.confidence,
            "until": self.until,
            "cluster": self.cluster,
            "workers": self.workers,
            "threshold": self.threshold,
            "calibration": calibration_digest(self.calibration),
            "profile": options.read_profile_file(self.profile),
        }


@asynccontextmanager
async def opened(
    judging: Judging, seed: int, run: RunFolder, rows: Callable[[], Iterable[InputRow | BadRow]] = tuple
) -> AsyncGenerator[PRM]:
    """Loads the model, starts the sandbox, and notes in the run's folder what they came to.

    Args:
        judging: which model, and how it judges.
        seed: the engine's.
        run: the folder.
        rows: gives the rows that will be judged, where they can be read twice: an implicit PRM's reference is then
            asked about all of them first, and makes room for the PRM.
    """
    from genprm.calibrate import CalibratedPRM, Calibration
    from genprm.cluster import ClusterPRM, load_cluster
    from genprm.data.inputs import InputRow
    from genprm.prms.implicit.judge import ImplicitPRM
    from genprm.prms.load import BUILT_IN, BUILT_IN_PATH, load_prm
    from genprm.runs.provenance import weights_of

    _hush()
    calibration = None if judging.calibration is None else Calibration.load(judging.calibration)
    how: dict[str, Any] = {
        "family": judging.family,
        "engine": judging.engine,
        "base_urls": judging.base_url,
        "revision": judging.revision,
        "dtype": judging.dtype,
        "sandbox": judging.sandbox,
        "mode": judging.mode,
        "votes": judging.votes,
        "temperature": judging.temperature,
        "threshold": judging.threshold,
        "until": judging.until,
        "confidence": judging.confidence,
        "profile": options.read_profile_file(judging.profile),
        "reference": judging.reference,
        "reference_urls": judging.reference_url,
        "seed": seed,
    }
    if judging.cluster is not None:
        prm = await load_cluster(judging.cluster, judging.model, workers=judging.workers, **how)
    elif judging.workers is not None:
        raise UsageError(f"--workers {judging.workers} is for --cluster")
    else:
        prm = await load_prm(judging.model, lazy=True, **how)
    try:
        if isinstance(prm, ImplicitPRM):
            left = (row for row in rows() if isinstance(row, InputRow) and row.key not in run.done)
            await prm.prepare((row.problem, row.steps) for row in left)
            await prm.model.open()
        where = BUILT_IN_PATH if judging.model == BUILT_IN else judging.model
        facts = prm.facts
        # What a server has loaded is its own affair; a folder may be moved, so its content counts and not its name.
        facts["weights"] = None if judging.base_url else weights_of(where, judging.revision)
        note = facts.pop("sandbox_note", None)
        if note and judging.sandbox == "auto":
            stderr().print(f"Sandbox: {note}", soft_wrap=True, markup=False)
        if isinstance(prm, ClusterPRM):
            stderr().print(f"Cluster: {len(prm.workers)} workers", soft_wrap=True)
        fixed = ("weights", "profile", "sampling", "engine", "family", *(["model"] if facts["weights"] is None else []))
        run.note(facts, fixed=fixed)
        yield prm if calibration is None else CalibratedPRM(prm, calibration)
    finally:
        await prm.close()


def calibration_digest(path: Path | None) -> str | None:
    """What is noted of a calibration: its content decides, not where it lies."""
    import hashlib

    from genprm.calibrate import CalibrationError

    if path is None:
        return None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise CalibrationError(f"cannot read the calibration {str(path)!r}: {error.strerror}") from error


def _hush() -> None:
    """Keeps other libraries' bars and chatter out of the log of a run."""
    import os

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if not stderr().is_terminal:
        from transformers.utils import logging

        logging.disable_progress_bar()
