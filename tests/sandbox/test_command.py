"""`genprm sandbox`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genprm.cli.sandbox import app
from tests.conftest import missing

from .conftest import no_bubblewrap

pytestmark = [pytest.mark.slow, pytest.mark.bubblewrap]
BUBBLEWRAP = ["--sandbox", "bubblewrap"]


@pytest.fixture(autouse=True)
def _needs_bubblewrap() -> None:
    if reason := no_bubblewrap():
        missing(reason)


def test_run_prints_output_and_verdict(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("print(6 * 7)")
    result = CliRunner().invoke(app, ["run", str(file), *BUBBLEWRAP])
    assert result.exit_code == 0
    assert result.stdout == "42\n"
    assert "ok in" in result.stderr


def test_run_gives_json_and_a_failing_exit_code() -> None:
    result = CliRunner().invoke(app, ["run", "-", "--json", *BUBBLEWRAP], input="print(1)\n1 / 0")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer.pop("duration_s") > 0
    expected = {"status": "exception", "stdout": "1\n", "error": "ZeroDivisionError: division by zero", "truncated": 0}
    assert answer == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["run", "/nonexistent.py"], "/nonexistent.py"), (["run", "-", "--wall-s", "0"], "wall_s"),
     (["attack", "--only", "no-such"], "no-such")],
)  # fmt: skip
def test_bad_usage_is_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments, input="")
    assert result.exit_code == 2
    assert message in result.output


def test_attack_prints_a_table() -> None:
    result = CliRunner().invoke(app, ["attack", "--only", "mounts", *BUBBLEWRAP])
    assert result.exit_code == 0, result.output
    assert "1 of 1 attacks contained" in result.stdout
    assert "mounts" in result.stdout
    result = CliRunner().invoke(app, ["attack", "--only", "mounts", "--json", *BUBBLEWRAP])
    found = json.loads(result.stdout)
    assert found["contained"] == 1
    assert [(one["attack"], one["contained"], one["failures"]) for one in found["attacks"]] == [("mounts", True, [])]
    assert "bubblewrap" in found["sandbox"]


def test_bench_prints_every_snippet() -> None:
    result = CliRunner().invoke(app, ["bench", "--lanes", "1", "--seconds", "0.1", *BUBBLEWRAP])
    assert result.exit_code == 0, result.output
    names = ["trivial", "number-theory", "linear-algebra", "simplify-solve", "integrate"]
    for name in names:
        assert name in result.stdout
    result = CliRunner().invoke(app, ["bench", "--lanes", "1", "--seconds", "0.1", "--json", *BUBBLEWRAP])
    found = json.loads(result.stdout)["snippets"]
    assert sorted(found) == sorted(names)
    assert all(one["per_s"] > 0 and one["p99_ms"] >= one["p50_ms"] > 0 for one in found.values())
