"""`genprm show`, `genprm demo`, `genprm doctor --json`, and the package's recipes and examples."""

import json

import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.data.inputs import InputError
from genprm.data.shipped import shipped

ENV = {"COLUMNS": "80"}


def genprm(*arguments):
    return CliRunner().invoke(app, arguments, env=ENV)


@pytest.mark.bubblewrap
@pytest.mark.slow
def test_the_first_command_and_its_tables_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = genprm("demo", "-o", "runs/d")
    assert result.exit_code == 0, result.output
    assert "page: runs/d/report.html" in result.stdout
    assert max(map(len, result.stdout.splitlines()[1:])) <= 80
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "paint-1 1.00 1.00 0.00 step 3 step 3 ✓" in lines
    assert (tmp_path / "runs/d/report.html").exists()

    again = genprm("show", "runs/d")
    assert again.exit_code == 0, again.output
    shown = [" ".join(line.split()) for line in again.stdout.splitlines()]
    start = next(place for place, line in enumerate(lines) if line.startswith("solutions judged"))
    end = next(place for place, line in enumerate(lines) if line.startswith("generated tokens"))
    assert lines[start : end + 1] == [line for line in shown if line in lines[start : end + 1]]
    assert "paint-1 1.00 1.00 0.00 step 3 step 3 ✓" in shown

    whole = json.loads(genprm("show", "runs/d", "--json").stdout)
    assert whole["command"] == "verify"
    assert whole["metrics"]["rows"] == 12
    # A run that was killed before it wrote metrics: only rows exist.
    (tmp_path / "runs/d/metrics.json").unlink()
    assert json.loads(genprm("show", "runs/d", "--json").stdout)["metrics"]["labels"]["f1"] == 1.0


def test_show_of_what_is_no_run(tmp_path):
    result = genprm("show", str(tmp_path))
    assert result.exit_code == 2
    assert "is not the folder of a run" in " ".join(result.stderr.split())


def test_what_is_shipped():
    assert shipped("builtin:best-of-n", "recipes").endswith("recipes/best-of-n.yaml")
    assert shipped("mine.yaml", "recipes") == "mine.yaml"
    with pytest.raises(InputError, match="which has builtin:beam, builtin:best-of-n"):
        shipped("builtin:nothing", "recipes")


@pytest.mark.slow
def test_doctor_as_json():
    result = genprm("doctor", "--json", "--base-url", "http://127.0.0.1:9/v1")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["ready"] is False
    servers = [check for check in found["checks"] if check["part"] == "Servers"]
    assert servers[0]["state"] == "fail"


def test_a_shipped_recipe_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: builtin:best-of-n\nn: 2\n")
    for recipe in ("builtin:best-of-n", "mine.yaml"):
        result = genprm("search", recipe, "--dry-run")
        assert result.exit_code == 0, result.output
        assert "eight solutions per problem" in result.stdout
    result = genprm("search", "builtin:nothing")
    assert result.exit_code == 2
    assert "builtin:dvts" in result.stderr


def test_doctor_names_the_next_thing_for_all_that_fails(monkeypatch):
    from genprm.cli import doctor
    from genprm.sandbox import checks
    from genprm.sandbox.checks import Check, Level

    names = ["kernel", "seccomp", "docker engine", "bubblewrap"]
    broken = [Check(name, Level.FAIL if name == "kernel" else Level.WARN, "it does not work") for name in names]
    monkeypatch.setattr(checks, "diagnose", lambda: broken)
    found = {finding.name: finding for finding in doctor._sandbox()}
    assert {name for name in names if found[name].state == "fail"} == {"kernel", "docker engine", "bubblewrap"}
    assert all(finding.next for finding in found.values())
    result = genprm("doctor", "--base-url", "http://127.0.0.1:9/v1")
    assert result.exit_code == 1
    lines = [line.strip() for line in result.stdout.splitlines()]
    failed = [place for place, line in enumerate(lines) if line.startswith("✗")]
    assert len(failed) == 4
    assert all(lines[place + 1].startswith("→") for place in failed)
    # One working engine is enough.
    monkeypatch.setattr(checks, "diagnose", lambda: [*broken[1:3], Check("bubblewrap", Level.OK, "0.9")])
    assert "fail" not in {finding.state for finding in doctor._sandbox()}
