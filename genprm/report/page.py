"""Writes the page of a run: one HTML file that needs no network and no server.

The page's script builds everything from JSON in the page: text becomes text nodes, and formulas are rendered by KaTeX.
A content security policy allows no other script, so model text cannot act in the reader's browser. A row's JSON is
parsed when the reader opens it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TextIO, TypeVar

from pydantic import BaseModel, JsonValue

from genprm.benchmarks.metrics import Metrics
from genprm.runs.folder import RunInfo, replacing
from genprm.runs.rows import FailureRow, VerifyRow

MAX_MB = 64
"""Space for rows in a page, in MiB of JSON. Browsers still open such a page quickly."""
EXCERPT = 140
"""Characters of a problem in the list."""

_SHARED = ("math.js", "charts.js", "chain.js", "list.js")

RowT = TypeVar("RowT", bound=BaseModel)


def write_page(
    path: Path,
    *,
    info: RunInfo,
    metrics: Metrics,
    rows: Iterable[VerifyRow],
    failures: Iterable[FailureRow] = (),
    max_mb: float = MAX_MB,
) -> int:
    """Writes the page of a run.

    Args:
        path: the file; replaced atomically.
        info: content of `run.json`.
        metrics: content of `metrics.json`.
        rows: read once, one at a time.
        failures: inputs without a judgement.
        max_mb: the page includes rows up to this size; the list has all rows.

    Returns:
        Number of rows that are only in the list.
    """
    return write_rows(path, "page.js", _entry, info=info, metrics=metrics, rows=rows, failures=failures, max_mb=max_mb)


def write_rows(
    path: Path,
    script: str,
    entry: Callable[[RowT], JsonValue],
    *,
    info: RunInfo,
    metrics: BaseModel,
    rows: Iterable[RowT],
    failures: Iterable[FailureRow] = (),
    max_mb: float = MAX_MB,
) -> int:
    """Writes a page of rows of any kind: see `write_page`.

    Args:
        path: the file.
        script: the asset that shows such rows.
        entry: returns a row's entry in the list.
        info: content of `run.json`.
        metrics: content of `metrics.json`.
        rows: read once.
        failures: inputs without a row.
        max_mb: space for rows.

    Raises:
        WriteError: the page cannot be written.
    """
    with replacing(path) as page:
        return _write(page, script, entry, info, metrics, rows, failures, int(max_mb * 2**20))


def _write(
    page: TextIO,
    script_name: str,
    entry: Callable[[RowT], JsonValue],
    info: RunInfo,
    metrics: BaseModel,
    rows: Iterable[RowT],
    failures: Iterable[FailureRow],
    room: int,
) -> int:
    scripts = [_asset("katex/katex.min.js"), "".join(_asset(name) for name in (*_SHARED, script_name))]
    styles = [_katex_style(), _asset("page.css")]
    # Fonts are embedded in the style sheet. KaTeX sets styles by script, which the policy allows.
    policy = (
        f"default-src 'none'; style-src {' '.join(map(_hash, styles))}; script-src {' '.join(map(_hash, scripts))}; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )
    page.write('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n')
    page.write(f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n')
    page.write('<meta name="viewport" content="width=device-width, initial-scale=1">\n')
    page.write(f"<title>genprm {html.escape(info.command)}</title>\n")
    page.writelines(f"<style>{style}</style>\n" for style in styles)
    page.write(f"</head>\n{_asset('page.html')}")
    index: list[JsonValue] = []
    left_out = 0
    for number, row in enumerate(rows):
        text = _embedded(row.model_dump_json())
        room -= len(text)
        if room >= 0:
            page.write(f'<script type="application/json" id="row-{number}">{text}</script>\n')
        else:
            left_out += 1
        index.append(entry(row))
    data = {
        "info": info.model_dump(mode="json"),
        "metrics": metrics.model_dump(mode="json"),
        "failures": [failure.model_dump(mode="json") for failure in failures],
        "index": index,
    }
    page.write(f'<script type="application/json" id="data">{_embedded(json.dumps(data))}</script>\n')
    page.writelines(f"<script>{script}</script>\n" for script in scripts)
    page.write("</body>\n</html>\n")
    return left_out


def _entry(row: VerifyRow) -> JsonValue:
    """A row's entry in the list."""
    return {
        "id": row.id or row.key,
        "key": row.key,
        "first_error": row.first_error,
        "label": row.label,
        "scores": [_rounded(score) for score in row.scores],
        "whole": None if row.solution is None else _rounded(row.solution.score),
        "excerpt": (row.problem or "")[:EXCERPT],
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 3)


def _embedded(text: str) -> str:
    r"""JSON that is safe in a script element: no `<`, so neither `</script>` nor `<!--` can occur."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _katex_style() -> str:
    """KaTeX's style sheet with embedded fonts."""

    def embed(match: re.Match[str]) -> str:
        font = resources.files("genprm.report").joinpath("katex", match[1]).read_bytes()
        return f"url(data:font/woff2;base64,{base64.b64encode(font).decode()})"

    return re.sub(r"url\((fonts/[^)]+\.woff2)\)", embed, _asset("katex/katex.min.css"))


@cache
def _asset(name: str) -> str:
    return resources.files("genprm.report").joinpath(name).read_text(encoding="utf-8")
