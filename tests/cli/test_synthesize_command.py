"""Options of `genprm synthesize` that make no sense."""

from pathlib import Path

from typer.testing import CliRunner

from genprm.cli.main import app
from tests.rpe.test_synthesis import label_run


def test_the_generator_needs_no_cluster(tmp_path: Path) -> None:
    labels = label_run(tmp_path / "labels", 1)
    command = ["synthesize", str(labels), "--cluster", "ray", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "--cluster 'ray' is for a model as --teacher, and 'generator' is not one" in result.stderr
