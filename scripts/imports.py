#!/usr/bin/env python3
"""Draws the imports between the packages of genprm as docs/architecture.svg.

usage: scripts/imports.py [--check]     --check fails if the picture is out of date
"""

from __future__ import annotations

import ast
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"

STOREYS = (
    ("__main__", "cli"),
    ("serve", "report"),
    ("api", "benchmarks", "client", "guards", "integrations", "rewards", "rpe", "search", "step_tokens", "train"),
    ("calibrate", "cluster", "runs"),
    ("prms",),
    ("data", "engines", "grading"),
    (
        "concurrency",
        "chat_text",
        "config",
        "errors",
        "extras",
        "fields",
        "lazy",
        "prompts",
        "sandbox",
        "spent",
        "text",
        "types",
    ),
)
"""The layers from top to bottom. Imports point down, or to the same layer."""

WORDS = {
    "cli": "the commands",
    "integrations": "TRL, verl, OpenRLHF, ...",
    "serve": "HTTP service",
    "report": "pages of runs",
    "benchmarks": "ProcessBench, PRMBench, ...",
    "search": "best-of-n, beam, DVTS, refine",
    "rpe": "rollouts, step labels, data sets",
    "train": "SFT, heads, implicit PRMs",
    "runs": "a run's folder, driver, rows",
    "calibrate": "scores that mean what they say",
    "cluster": "workers on Ray",
    "api": "one call for one solution",
    "client": "asks the service, stdlib alone",
    "rewards": "for RL frameworks",
    "prms": "families: genprm, thinkprm, ...",
    "engines": "vLLM, servers, transformers",
    "grading": "is this answer right?",
    "data": "inputs, pools, step splitting",
    "sandbox": "runs untrusted Python",
    "prompts": "Jinja templates",
    "config": "settings, one spelling",
    "types": "values",
}
_LEFT_OUT = {
    "__main__",
    "chat_text",
    "fields",
    "lazy",
    "errors",
    "text",
    "concurrency",
    "spent",
    "types",
    "guards",
    "step_tokens",
}
"""Not drawn: everything uses them, or next to nothing does."""


class Import(NamedTuple):
    """One import."""

    source: str
    target: str
    eager: bool
    """At the top of the module, so that it runs when the module is imported."""


@cache
def modules() -> Mapping[str, Path]:
    """Every module of the package by its import name."""
    found: dict[str, Path] = {}
    # Some folders of the package are links in a checkout; others are no packages, such as the recipes.
    for folder, below, files in os.walk(ROOT / "genprm", followlinks=True):
        if "__init__.py" not in files:
            below.clear()
            continue
        for file in (Path(folder) / name for name in files if name.endswith(".py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports() -> Iterator[Import]:
    """Every import of one module of genprm by another; those that only the type checker runs are left out."""
    for name, file in modules().items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        yield from _of(ast.parse(file.read_text(encoding="utf-8")), name, package, eager=True)


def _of(node: ast.AST, source: str, package: str, *, eager: bool) -> Iterator[Import]:
    known = modules()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        inside = eager and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(child, ast.Import):
            targets = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                above = package.split(".")
                base = ".".join([*above[: len(above) - child.level + 1], *([base] if base else [])])
            targets = [whole if (whole := f"{base}.{alias.name}") in known else base for alias in child.names]
        else:
            targets = []
            yield from _of(child, source, package, eager=inside)
        yield from (Import(source, target, eager) for target in targets if target in known and target != source)


def room_of(module: str) -> str:
    """The room of a module: `genprm.prms.chat` is in `prms`."""
    return module.split(".")[1] if "." in module else "genprm"


def storey_of(room: str) -> int | None:
    """How far down a room is, from 0; None where `STOREYS` does not have it."""
    return next((depth for depth, rooms in enumerate(STOREYS) if room in rooms), None)


def draw() -> str:
    """The picture, as SVG."""
    arrows = Counter(
        (room_of(one.source), room_of(one.target)) for one in imports() if room_of(one.source) != room_of(one.target)
    )
    shown = {room for pair in arrows for room in pair if room not in _LEFT_OUT and storey_of(room) is not None}
    below = {room: {b for a, b in arrows if a == room and b in shown} for room in shown}

    def reaches(room: str, target: str) -> bool:
        seen, left = set[str](), {room}
        while left:
            seen |= left
            left = {lower for one in left for lower in below[one]} - seen
            if target in left:
                return True
        return False

    implied = {(a, b) for a in shown for b in below[a] if any(reaches(c, b) for c in below[a] if c != b)}
    drawn = {(a, b) for a in shown for b in below[a] if storey_of(a) != storey_of(b)} - implied
    rows = {depth: [room for room in rooms if room in shown] for depth, rooms in enumerate(STOREYS)}
    rows = {depth: row for depth, row in rows.items() if row}
    wide, high, gap_x, gap_y, margin = 204, 50, 16, 54, 20
    most = max(len(row) for row in rows.values())
    width = most * wide + (most - 1) * gap_x + 2 * margin
    place: dict[str, tuple[float, float]] = {}
    for depth, row in enumerate(rows.values()):
        if depth:  # under those that use them, so that few arrows cross
            row.sort(key=lambda room: _mean([place[a][0] for a, b in drawn if b == room], width / 2))
        left = (width - len(row) * wide - (len(row) - 1) * gap_x) / 2
        for position, room in enumerate(row):
            place[room] = (left + position * (wide + gap_x), margin + depth * (high + gap_y))
    total = margin + len(rows) * (high + gap_y)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        'font-family="system-ui, sans-serif">',
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#7a8494"/></marker></defs>',
    ]
    for a, b in sorted(drawn):
        (x1, y1), (x2, y2) = place[a], place[b]
        start, end = (x1 + wide / 2, y1 + high), (x2 + wide / 2, y2)
        bend = (end[1] - start[1]) / 2
        out.append(
            f'<path d="M{start[0]:g} {start[1]:g}C{start[0]:g} {start[1] + bend:g} {end[0]:g} {end[1] - bend:g} '
            f'{end[0]:g} {end[1]:g}" fill="none" stroke="#9aa4b2" stroke-width="1.3" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in place.items():
        out.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide}" height="{high}" rx="7" fill="#f3f6fb" stroke="#2457c5"/>'
            f'<text x="{x + wide / 2:g}" y="{y + 21:g}" text-anchor="middle" font-size="15" font-weight="600" '
            f'fill="#1c2128">{escape(room)}</text>'
            f'<text x="{x + wide / 2:g}" y="{y + 39:g}" text-anchor="middle" font-size="11.5" '
            f'fill="#5d6673">{escape(WORDS.get(room, ""))}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def main() -> int:
    """Draws the picture, or checks it."""
    picture = draw()
    if "--check" in sys.argv:
        if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == picture:
            return 0
        print(f"{PICTURE.relative_to(ROOT)} is out of date: run scripts/imports.py", file=sys.stderr)
        return 1
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
