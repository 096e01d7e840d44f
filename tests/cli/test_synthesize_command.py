"""`genprm synthesize` with models as teachers."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.runs import read_rows_of
from rpe.rows import Drop, SynthesisRow
from tests.rpe.test_synthesis import label_run

PROBLEMS = 2


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.bubblewrap
def test_a_server_is_a_teacher(nano_server: str, tmp_path: Path) -> None:
    labels = label_run(tmp_path / "labels", PROBLEMS)
    command = ["synthesize", str(labels), "--teacher", "nano", "--base-url", nano_server, "--temperature", "1"]
    command += ["--max-tokens", "100", "--sandbox", "bubblewrap", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output + result.stderr
    rows = list(read_rows_of(tmp_path / "run", SynthesisRow))
    assert len(rows) == 4 * PROBLEMS
    # The built-in judge knows another layout, and what it writes is no review to keep; but it was asked, and it wrote.
    asked = [row for row in rows if row.dropped is not Drop.UNDECIDED]
    assert len(asked) == 3 * PROBLEMS
    assert all(row.generated > 0 for row in asked)
    assert all(row.generated == 0 for row in rows if row.dropped is Drop.UNDECIDED)


def test_the_generator_needs_no_cluster(tmp_path: Path) -> None:
    labels = label_run(tmp_path / "labels", 1)
    command = ["synthesize", str(labels), "--cluster", "ray", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "--cluster 'ray' is for a model as --teacher: 'generator' is none" in result.stderr
