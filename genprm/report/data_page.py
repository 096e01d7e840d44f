"""The pages of `genprm label` (rollouts and values of steps) and `genprm synthesize` (rationales)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue

from genprm.report.page import EXCERPT, MAX_MB, write_rows
from genprm.rpe.dataset import label_metrics, synthesis_metrics
from genprm.rpe.rows import LabelRow, SynthesisRow
from genprm.runs.folder import RunInfo
from genprm.runs.rows import FailureRow


class _Counts(BaseModel):
    model_config = ConfigDict(extra="allow")


def write_label_page(
    path: Path,
    *,
    info: RunInfo,
    rows: Sequence[LabelRow],
    failures: Iterable[FailureRow] = (),
    max_mb: float = MAX_MB,
) -> int:
    """Writes the page of a labelling run: see `genprm.report.page.write_page`."""
    metrics = _counts(label_metrics(rows))
    return write_rows(
        path, "label.js", _labelled, info=info, metrics=metrics, rows=rows, failures=failures, max_mb=max_mb
    )


def write_synthesis_page(
    path: Path,
    *,
    info: RunInfo,
    rows: Sequence[SynthesisRow],
    failures: Iterable[FailureRow] = (),
    max_mb: float = MAX_MB,
) -> int:
    """Writes the page of a synthesis run: see `genprm.report.page.write_page`."""
    metrics = _counts(synthesis_metrics(rows))
    return write_rows(
        path, "synthesize.js", _synthesized, info=info, metrics=metrics, rows=rows, failures=failures, max_mb=max_mb
    )


def _counts(counts: Mapping[str, int | float]) -> BaseModel:
    return _Counts.model_validate(dict(counts))


def _labelled(row: LabelRow) -> JsonValue:
    return {
        "id": row.id or row.key,
        "key": row.key,
        "dropped": row.dropped,
        "first_errors": [solution.first_error for solution in row.solutions],
        "excerpt": row.problem[:EXCERPT],
    }


def _synthesized(row: SynthesisRow) -> JsonValue:
    return {
        "id": row.id,
        "key": row.key,
        "kept": row.kept,
        "dropped": row.dropped,
        "excerpt": row.problem[:EXCERPT],
    }
