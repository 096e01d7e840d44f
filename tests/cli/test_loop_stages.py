"""What the stages of `genprm loop` are given, and what becomes of their failed rows; the commands are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import JsonValue

from genprm.cli import label
from genprm.cli.loop import Loop
from genprm.config import RunConfig
from genprm.data.word_problems import make_problems
from genprm.runs.folder import open_run
from genprm.runs.rows import FailureRow
from genprm.search.recipe import read_recipe
from genprm.train.loop import LoopError, LoopRecipe


def recipe_of(folder: Path, **values: Any) -> LoopRecipe:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"problems": {"generate": 2}, **values}))
    return read_recipe(path, LoopRecipe)


class Enough(Exception):
    """Ends a loop whose next stages a test does not need."""


def go(folder: Path, recipe: LoopRecipe) -> tuple[list[dict[str, Any]], str]:
    """Runs a loop until it stops. Returns its finished stages and why it stopped."""
    with open_run(folder, command="loop", config={}) as run, pytest.raises((LoopError, Enough)) as stopped:
        Loop(recipe, run).go()
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return rows, " ".join(str(stopped.value).split())


def test_a_stage_with_failed_rows_stops_the_loop_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [2, 2, 0]

    async def label_into(
        source: object,
        files: object,
        labelling: object,
        shared: object,
        cluster: object,
        how: RunConfig,
        hub: object,
        *,
        without: object = (),
    ) -> int:
        failed = failing.pop(0)
        assert how.out is not None
        with open_run(how.out, command="label", config={}) as run:
            for number in range(failed):
                run.add_failure(FailureRow(key=str(number), file="a.jsonl", line=1, kind="EngineError", reason="no"))
        (how.out / "metrics.json").write_text("{}")
        return 1 if failed else 0

    async def synthesize_into(*_: object) -> int:
        raise Enough

    monkeypatch.setattr(label, "label_into", label_into)
    monkeypatch.setattr("genprm.cli.synthesize.synthesize_into", synthesize_into)
    monkeypatch.setattr("genprm.train.loop.gate", lambda *_: None)
    recipe = recipe_of(tmp_path)
    stages, reason = go(tmp_path / "run", recipe)
    assert not stages
    assert "round-1/label: failed rows: 2, and gates.failed allows 0." in reason
    assert f"{tmp_path}/run/round-1/label/failures.jsonl' names them; the first: no." in reason
    assert "Stopped. round-1/label: failed rows: 2" in (tmp_path / "run" / "report.html").read_text()

    allowed = recipe_of(tmp_path, gates={"failed": 2})
    # no more failures than allowed: the loop continues and reports them
    (stage,), _ = go(tmp_path / "allowed", allowed)
    assert (stage["key"], stage["figures"]["failed"]) == ("round-1/label", 2)

    (stage,), reason = go(tmp_path / "run", recipe)
    assert (stage["key"], reason) == ("round-1/label", "")
    assert "failed" not in stage["figures"]
    assert failing == []


def test_no_round_learns_from_what_the_judge_is_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_problems(2, 7)[0].text
    files = {
        "learn": [{"problem": text, "answer": "1"} for text in ("a", "b", "c", "d", made)],
        "search": [{"problem": "b", "answer": "1"}],
        "marked": [{"problem": "c", "steps": ["x"], "label": 0}],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    learned: list[set[str]] = []

    async def label_into(
        source: dict[str, JsonValue],
        files: list[str],
        labelling: object,
        shared: object,
        cluster: object,
        how: RunConfig,
        hub: object,
        *,
        without: Collection[str] = (),
    ) -> int:
        if files:
            learned.append({row.problem for row in label.problems_of(source, files, how, without)})
            raise Enough
        assert how.out is not None
        with open_run(how.out, command="label", config={}):
            pass
        (how.out / "metrics.json").write_text("{}")
        return 0

    monkeypatch.setattr(label, "label_into", label_into)
    base = {
        "problems": {"files": [str(tmp_path / "learn.jsonl")]},
        "search": {"problems": {"files": [str(tmp_path / "search.jsonl")]}, "policy": {}},
    }
    go(tmp_path / "files", recipe_of(tmp_path, **base, benchmark={"files": [str(tmp_path / "marked.jsonl")]}))
    go(tmp_path / "made", recipe_of(tmp_path, **base, benchmark={"generate": 2, "generate_seed": 7}))
    assert learned == [{"a", "d", made}, {"a", "c", "d"}]
