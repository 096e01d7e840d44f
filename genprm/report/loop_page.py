"""The page of a loop: the results of every stage by round, with links to the stages' own pages."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from genprm.runs.folder import REPORT, RunInfo, write_atomically
from genprm.train.loop import StageRow

WORDS = {
    "held-out": "held-out solutions",
    "label": "rollouts and step labels",
    "synthesize": "rationales with executed code, and consensus",
    "train": "the judge",
    "benchmark": "F1 on held-out solutions",
    "search": "the policy with the judge",
}
PAGES = ("report.html", "dataset/README.md", "README.md", "metrics.json")
"""Pages in a stage's folder, best first."""
PICTURES = ("curves.png", "accuracy.svg", "f1.svg")
USUAL_ZEROS = ("dropped", "steps", "solutions_invalid", "outcomes", "undecided", "uncertain", "left_out", "generated")
"""Figures shown only if they are not 0."""
STYLE = """
body { display: block; height: auto; } main { display: block; padding: 1rem 1.5rem 3rem; }
table { border-collapse: collapse; margin: .6rem 0 1.6rem; } caption { text-align: left; font-weight: 600; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; } img { max-width: 38rem; width: 100%; background: #fff; }
.stopped { color: var(--wrong); background: var(--wrong-bg); border-radius: 6px; padding: .5rem .9rem; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); } svg { max-width: 34rem; }
"""


def write_loop_page(folder: Path, *, info: RunInfo, rows: Sequence[StageRow], stopped: str | None) -> None:
    """Writes `report.html`, without scripts; pictures and linked pages are beside it.

    Args:
        folder: the loop's folder.
        info: content of `run.json`.
        rows: the finished stages in order.
        stopped: why the loop ended early.
    """
    style = resources.files("genprm.report").joinpath("page.css").read_text(encoding="utf-8") + STYLE
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file: data:"
    seconds = sum(row.seconds for row in rows)
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>genprm loop</title>\n<style>{style}</style>\n</head>\n<body>\n<header>",
        f"<h1>{html.escape(str(info.config.get('description') or 'genprm loop'))}</h1>",
        f'<p id="subtitle">{len(rows)} stages, {seconds / 60:,.1f} minutes, started {html.escape(info.started)}</p>',
    ]
    if stopped is not None:
        parts.append(f'<p class="stopped">Stopped. {html.escape(stopped)}</p>')
    parts.append("</header>\n<main>")
    parts += _scores(rows)
    for number in sorted({row.round for row in rows}):
        parts += _round(folder, number, [row for row in rows if row.round == number])
    config = html.escape(json.dumps({"config": info.config, "versions": info.versions}, indent=2))
    parts.append(f'<details id="run"><summary>Configuration and versions</summary><pre>{config}</pre></details>')
    parts.append("</main>\n</body>\n</html>\n")
    write_atomically(folder / REPORT, "\n".join(parts))


def _round(folder: Path, number: int, rows: Sequence[StageRow]) -> list[str]:
    made = [f"<table><caption>{f'Round {number}' if number else 'Made once'}</caption>"]
    made.append("<tr><th>stage</th><th>description</th><th>results</th><th>seconds</th></tr>")
    pictures: list[str] = []
    for row in rows:
        found = [name for name in PAGES if (folder / row.key / name).exists()]
        name = html.escape(row.stage)
        title = f'<a href="{row.key}/{found[0]}">{name}</a>' if found else name
        made.append(
            f"<tr><td>{title}</td><td>{WORDS.get(row.stage, '')}</td><td>{_figures(row.figures)}</td>"
            f"<td>{row.seconds:,.0f}</td></tr>"
        )
        shown = [f"{row.key}/{one}" for one in PICTURES if (folder / row.key / one).exists()]
        pictures += [f'<p><img src="{one}" alt="{html.escape(one)}"></p>' for one in shown]
    return [*made, "</table>", *pictures]


def _figures(figures: Mapping[str, float | None]) -> str:
    shown = [
        (name, value)
        for name, value in figures.items()
        if value is not None and (value or not name.startswith(USUAL_ZEROS))
    ]
    return "<br>".join(f"{html.escape(name.replace('_', ' '))} {_number(value)}" for name, value in shown)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _scores(rows: Sequence[StageRow]) -> list[str]:
    """F1 by round with its interval, as a picture."""
    points = [
        (row.round, row.figures) for row in rows if row.stage == "benchmark" and row.figures.get("f1") is not None
    ]
    if not points:
        return []
    width, height, left, top = 480, 180, 50, 14
    step = (width - left) / (len(points) + 1)

    def y(value: float | None) -> float:
        return top + (height - 2 * top) * (1 - (value or 0.0))

    made = [f'<svg viewBox="0 0 {width} {height + 20}" role="img" aria-label="F1 of the judge by round">']
    for mark in (0, 0.5, 1):
        made.append(f'<line x1="{left}" x2="{width}" y1="{y(mark):.0f}" y2="{y(mark):.0f}" stroke="var(--line)"/>')
        made.append(f'<text x="8" y="{y(mark) + 4:.0f}">{mark:g}</text>')
    for place, (number, figures) in enumerate(points, start=1):
        x = left + place * step
        low, high = y(figures.get("low")), y(figures.get("high"))
        made.append(
            f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{low:.0f}" y2="{high:.0f}" stroke="var(--accent)" stroke-width="2"/>'
        )
        made.append(f'<circle cx="{x:.0f}" cy="{y(figures["f1"]):.0f}" r="4" fill="var(--accent)"/>')
        made.append(f'<text x="{x + 9:.0f}" y="{y(figures["f1"]) + 4:.0f}">{figures["f1"]:.3f}</text>')
        made.append(f'<text x="{x - 22:.0f}" y="{height + 14}">round {number}</text>')
    return ["<h2>F1 of the judge, with 95 % intervals</h2>", "\n".join(made) + "\n</svg>"]
