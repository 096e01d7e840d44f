"""The page at `/`: judge a solution and watch, browse runs, compare two. Static files; works offline.

Model text enters the page only as text nodes, and the content security policy allows only the page's own scripts.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from pydantic import ValidationError

from genprm.runs.folder import ROWS, RUN, RunInfo
from genprm.runs.rows import VerifyRow
from genprm.serve.errors import Refusal
from genprm.serve.settings import ServeConfig

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_KINDS = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".woff2": "font/woff2",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}
_OWN = ("icon.svg", "app.css", "app.js", "base.js", "runs.js")
_SHARED = ("page.css", "math.js", "chain.js", "katex/katex.min.js", "katex/katex.min.css")
_EXCERPT = 140


def add_to(app: FastAPI, config: ServeConfig) -> None:
    """Adds the page and its data endpoints to an application."""
    router = APIRouter(include_in_schema=False)
    runs = _Runs(config.runs)

    @router.get("/")
    async def index() -> Response:  # pyright: ignore[reportUnusedFunction]
        return _file("genprm.serve", "ui/index.html")

    @router.get("/page/{name:path}")
    async def asset(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        if name in _OWN:
            return _file("genprm.serve", f"ui/{name}")
        font = name.removeprefix("katex/fonts/")
        if name in _SHARED or (font != name and "/" not in font and font.endswith(".woff2")):
            return _file("genprm.report", name)
        raise Refusal(404, "not_found", f"there is no {name!r}")

    @router.get("/v1/runs")
    def all_runs() -> dict[str, list[str]]:  # pyright: ignore[reportUnusedFunction]
        return {"runs": runs.names()}

    @router.get("/v1/runs/{name}")
    def one_run(name: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return runs.index(name)

    @router.get("/v1/runs/{name}/rows/{number}")
    def one_row(name: str, number: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(runs.row(name, number), media_type="application/json")

    app.include_router(router)


def _file(package: str, name: str) -> Response:
    try:
        content = resources.files(package).joinpath(name).read_bytes()
    except (OSError, ValueError):  # a name with a NUL is a ValueError
        raise Refusal(404, "not_found", f"there is no {name!r}") from None
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return Response(content, media_type=_KINDS[Path(name).suffix], headers=headers)


class _Runs:
    """The run folders in a folder, read on demand."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._places: dict[str, tuple[int, list[tuple[int, int]], dict[str, Any]]] = {}

    def names(self) -> list[str]:
        """Runs of `verify` and the benchmarks, the latest first."""
        if self._folder is None or not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if (path / RUN).is_file() and (path / ROWS).is_file()]
        return [path.name for path in sorted(found, key=lambda path: (path / ROWS).stat().st_mtime, reverse=True)]

    def index(self, name: str) -> dict[str, Any]:
        """The list entries of all rows.

        Raises:
            Refusal: there is no such run, or it has no judgements.
        """
        return self._read(name)[2]

    def row(self, name: str, number: int) -> bytes:
        """One row, as stored in the file.

        Raises:
            Refusal: there is no such row.
        """
        places = self._read(name)[1]
        if not 0 <= number < len(places):
            raise Refusal(404, "not_found", f"the run {name!r} has no row {number}")
        start, length = places[number]
        assert self._folder is not None
        with (self._folder / name / ROWS).open("rb") as rows:
            rows.seek(start)
            return rows.read(length)

    def _read(self, name: str) -> tuple[int, list[tuple[int, int]], dict[str, Any]]:
        # Only listed names, so no path leads out of the folder.
        if self._folder is None or name not in self.names():
            raise Refusal(404, "not_found", f"there is no run {name!r}")
        path = self._folder / name
        size = (path / ROWS).stat().st_size
        known = self._places.get(name)
        if known is not None and known[0] == size:
            return known
        try:
            info = RunInfo.model_validate_json((path / RUN).read_bytes())
            places: list[tuple[int, int]] = []
            rows: list[dict[str, Any]] = []
            start = 0
            with (path / ROWS).open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        rows.append(_entry(VerifyRow.model_validate_json(line), len(places)))
                        places.append((start, len(line)))
                    start += len(line)
        except ValidationError as error:
            raise Refusal(422, "not_judgements", f"the rows of {name!r} are not judgements of steps") from error
        model = info.facts.get("model") or info.config.get("model")
        about = {"name": name, "command": info.command, "model": model, "started": info.started, "rows": rows}
        self._places[name] = (size, places, about)
        return self._places[name]


def _entry(row: VerifyRow, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "id": row.id or row.key,
        "key": row.key,
        # A solution has the same key in every run; the id is more readable.
        "match": row.id or row.key,
        "first_error": row.first_error,
        "label": row.label,
        "scores": [None if score is None else round(score, 3) for score in row.scores],
        "excerpt": (row.problem or "")[:_EXCERPT],
    }
