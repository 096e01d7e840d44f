"""The page of a search or a refinement: problems, their candidates ranked, search trees, and turns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, JsonValue

from genprm.report.page import EXCERPT, MAX_MB, write_rows
from genprm.runs.folder import RunInfo
from genprm.runs.rows import FailureRow
from genprm.search.rows import RefineRow, SearchRow


def write_search_page(
    path: Path,
    *,
    info: RunInfo,
    metrics: BaseModel,
    rows: Iterable[SearchRow | RefineRow],
    failures: Iterable[FailureRow] = (),
    max_mb: float = MAX_MB,
) -> int:
    """Writes the page of a search or a refinement: see `genprm.report.page.write_page`."""
    return write_rows(
        path, "search.js", _entry, info=info, metrics=metrics, rows=rows, failures=failures, max_mb=max_mb
    )


def _entry(row: SearchRow | RefineRow) -> JsonValue:
    tried = row.candidates if isinstance(row, SearchRow) else row.turns
    return {
        "id": row.id or row.key,
        "key": row.key,
        "prediction": row.prediction,
        "correct": row.correct,
        "possible": any(one.correct is True for one in tried),
        "rewards": [[None if one.score is None else round(one.score, 3), one.correct] for one in tried],
        "excerpt": row.problem[:EXCERPT],
    }
