"""The recipe of a loop, its gates, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from genprm.cli.label import problems_of
from genprm.config import RunConfig
from genprm.data.problems import ProblemRow
from genprm.fields import ConfigError, free_fields
from genprm.report.loop_page import write_loop_page
from genprm.runs.folder import RunInfo, open_run
from genprm.search.recipe import read_recipe
from genprm.train.config import SftConfig
from genprm.train.loop import Gates, LoopRecipe, StageRow, gate
from tests.search.test_recipes import LOOPS

LEAST: dict[str, Any] = {"problems": {"generate": 5, "generate_seed": 10}}


def read(tmp_path: Path, overrides: list[str] = [], **values: Any) -> LoopRecipe:  # noqa: B006
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **values}))
    return read_recipe(path, LoopRecipe, overrides)


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_the_recipes_are_loops(path: Path) -> None:
    recipe = read_recipe(path, LoopRecipe, ["rounds=3"])
    assert recipe.rounds == 3
    assert recipe.description
    assert recipe.search is not None
    assert recipe.benchmark is not None
    again = LoopRecipe.model_validate(
        yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True)))
    )
    assert again == recipe


def test_every_round_has_problems_and_samples_of_its_own(tmp_path: Path) -> None:
    recipe = read(tmp_path, rounds=2)
    assert [recipe.source(number)["generate_seed"] for number in (1, 2)] == [10, 11]
    files = read(tmp_path, problems={"files": ["a.jsonl"]}, rounds=2)
    assert files.source(1) == files.source(2)


def test_the_problems_of_a_file_are_read_by_their_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem": "no", "task": "What?", "gold": "7"}\n')
    problems = {"files": [str(tmp_path / "a.jsonl")], "problem": "task", "answer": "gold"}
    recipe = read(tmp_path, problems=problems)
    (row,) = problems_of(recipe.source(1), list(recipe.problems.files), RunConfig())
    assert isinstance(row, ProblemRow)
    assert (row.problem, row.answer) == ("What?", "7")
    assert not {"problem", "answer"} & set(read(tmp_path).source(1))  # as in folders of earlier versions


def test_bad_rows_may_be_skipped_after_they_stopped_the_training(tmp_path: Path) -> None:
    """In the loop's folder and in that of the stage."""
    assert "train.bad_rows" in read(tmp_path).free()
    for choice in ("error", "skip"):
        stored = SftConfig.of({"bad_rows": choice}).stored()
        with open_run(tmp_path / "run", command="train sft", config=stored, free=free_fields(SftConfig)) as run:
            assert run.info.config["bad_rows"] == choice


def test_the_recipe_for_a_real_model_skips_rows_that_are_too_long() -> None:
    (path,) = (path for path in LOOPS if path.parent.name == "loop")
    assert read_recipe(path, LoopRecipe).train.bad_rows == "skip"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"label": {"model": "x"}}, "model 'x' cannot be set here: it has a policy and a completer"),
        ({"train": {"data": "x"}}, "data 'x' cannot be set here: the loop sets it"),
        ({"benchmark": {"model": "x", "generate": 2}}, "model 'x' cannot be set here: the loop makes the judge"),
        ({"benchmark": {}}, "give files of labelled solutions, or generate"),
        (
            {"rounds": 3, "benchmark": {"generate": 2, "generate_seed": 12}},
            "12 makes problems that round 3 learns from",
        ),
        (
            {"search": {"problems": {"generate": 2, "generate_seed": 10}, "policy": {}}},
            "search.problems.generate_seed 10 makes problems that round 1",
        ),
        (
            {"search": {"problems": {"generate": 2}, "policy": {}, "prm": {"model": "x"}}},
            "model 'x' cannot be set here",
        ),
        ({"problems": {"pool": ["a.jsonl"]}}, "the loop takes problems from files or generate"),
        ({"roundz": 2}, "the key 'roundz' is unknown; the nearest one is 'rounds'"),
        ({"train": {"epochz": 2}}, "the key 'train.epochz' is unknown; the nearest one is 'epochs'"),
        ({"rounds": 0}, "'rounds' cannot be 0"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, **values)
    assert says in str(error.value)


def test_a_gate_names_the_figure_and_what_to_do() -> None:
    gates = Gates(labelled=10, kept=8, each=3, f1=0.4)
    assert gate("label", {"labelled": 10}, gates) is None
    assert gate("label", {"labelled": 9}, gates) == (
        "labelled: 9, and gates.labelled asks for 10. Give it more problems, a larger budget or more solutions, "
        "or lower the gate"
    )
    right = {"kept": 8, "kept_with_a_wrong_step": 5, "kept_right": 3}
    assert gate("synthesize", right, gates) is None
    assert "kept right: 2" in (gate("synthesize", {**right, "kept_right": 2}, gates) or "")
    assert "kept: 7" in (gate("synthesize", {**right, "kept": 7}, gates) or "")
    assert "f1: 0.39" in (gate("benchmark", {"f1": 0.39}, gates) or "")
    assert "f1: 0" in (gate("benchmark", {"f1": None}, gates) or "")
    assert gate("search", {"accuracy": 0.0}, gates) is None


def test_the_page_shows_stages_scores_and_why_it_stopped(tmp_path: Path) -> None:
    info = RunInfo(command="loop", digest="", config={"description": "<b>"}, free=[], started="today")
    (tmp_path / "round-1" / "train").mkdir(parents=True)
    (tmp_path / "round-1" / "train" / "curves.png").touch()
    rows = [
        StageRow(key="round-1/train", round=1, stage="train", figures={"loss": 0.25}, seconds=60),
        StageRow(
            key="round-1/benchmark", round=1, stage="benchmark", figures={"f1": 0.5, "low": 0.4, "high": 0.6}, seconds=9
        ),
    ]
    write_loop_page(tmp_path, info=info, rows=rows, stopped="too < few")
    page = (tmp_path / "report.html").read_text()
    for text in ("&lt;b&gt;", "too &lt; few", "round-1/train/curves.png", "loss 0.250", ">0.500<", "round 1"):
        assert text in page
    assert "<script" not in page
