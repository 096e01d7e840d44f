"""`genprm label` on the built-in policy."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from genprm.cli.main import app
from genprm.rpe.rows import LabelRow
from genprm.runs.folder import read_rows_of

pytestmark = pytest.mark.slow


COMMAND = ("label", "--generate", "3", "--temperature", "1", "--first", "12", "--most", "24", "--max-tokens", "200")
PARQUET = "dataset/data/train-00000-of-00001.parquet"


def genprm(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("label") / "run"
    result = genprm(*COMMAND, "--out", out)
    assert result.exit_code == 0, result.output + result.stderr
    return out


def test_a_run_holds_rows_and_a_data_set(made: Path) -> None:
    rows = list(read_rows_of(made, LabelRow))
    metrics = json.loads((made / "metrics.json").read_text())
    assert len(rows) == metrics["problems"] == 3
    assert metrics["solutions_labelled"] == sum(len(row.solutions) for row in rows) > 0
    card = (made / "dataset/README.md").read_text()
    assert '"policy": "nano-policy"' in card
    assert "sha256:" in card
    datasets = pytest.importorskip("datasets")
    opened = datasets.load_dataset(str(made / "dataset"), split="train", cache_dir=str(made.parent / "cache"))
    assert len(opened) == metrics["solutions_labelled"]
    assert all(-1 <= row["label"] < len(row["steps"]) for row in opened if row["label"] is not None)


def test_lost_rows_are_made_again_without_a_rollout(made: Path) -> None:
    before = (made / PARQUET).read_bytes()
    rollouts = (made / "rollouts.jsonl").read_bytes()
    lines = (made / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (made / "rows.jsonl").write_bytes(lines[0] + lines[1][:50])
    result = genprm(*COMMAND, "--out", made)
    assert result.exit_code == 0, result.output + result.stderr
    assert (made / PARQUET).read_bytes() == before
    # Rollouts of the finished problem are dropped; none was added.
    assert set((made / "rollouts.jsonl").read_bytes().splitlines()) < set(rollouts.splitlines())


def test_another_configuration_is_refused(made: Path) -> None:
    result = genprm(*COMMAND, "--out", made, "--threshold", "0.5")
    assert result.exit_code == 2
    assert "threshold: 0.8 -> 0.5" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give files with problems, or --generate"),
        (("x.jsonl", "--generate", "2"), "give files with problems, or --generate"),
        (("--generate", "2", "--budget", "some"), "adaptive, dynamic or a number from 1, not 'some'"),
        (("--generate", "2", "--method", "hard"), "use a fixed one for the method 'hard'"),
        (("--generate", "2", "--first", "64", "--most", "8"), "out of range"),
    ],
)
def test_what_makes_no_sense_is_named(arguments: tuple[str, ...], message: str) -> None:
    result = genprm("label", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
