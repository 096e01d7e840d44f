"""The options that spend less, on the built-in model: the same verdicts for fewer tokens."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.config import JudgeConfig
from genprm.fields import ConfigError

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("votes", "confidence", "found"),
    [
        ("1", None, (1, None)),
        ("8", None, (8, None)),
        ("adaptive", None, (8, 1.0)),
        ("adaptive:4", 0.9, (4, 0.9)),
    ],
)
def test_votes(votes: str, confidence: float | None, found: tuple[int, float | None]) -> None:
    config = JudgeConfig.of({"votes": votes, "confidence": confidence})
    assert (config.most_votes, config.settled_at) == found


@pytest.mark.parametrize("votes", ["0", "-1", "many", "adaptive:0", "adaptive:x", "1.5", ""])
def test_bad_votes_are_quoted(votes: str) -> None:
    with pytest.raises(ConfigError, match="not '"):
        JudgeConfig.of({"votes": votes})


def test_confidence_is_for_adaptive_votes() -> None:
    with pytest.raises(ConfigError, match="votes adaptive:4"):
        JudgeConfig.of({"votes": 4, "confidence": 0.9})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prm", "critic", "--until", "first-error"), "of the family 'critic'"),
        (("--workers", "2"), "workers 2 need a cluster"),
        (("--votes", "none"), "not 'none'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    file = str(ROOT / "examples" / "solutions.jsonl")
    result = CliRunner().invoke(app, ["verify", file, "--out", str(tmp_path / "run"), *arguments])
    assert result.exit_code == 1 + (message != "of the family 'critic'")
    assert message in " ".join(result.stderr.split())


@pytest.mark.slow
@pytest.mark.bubblewrap
def test_fewer_tokens_give_the_same_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = (ROOT / "examples" / "solutions.jsonl").read_text().splitlines()
    wrong = [row for row in rows if 0 <= json.loads(row)["label"] < len(json.loads(row).get("steps", "..")) - 1]
    Path("rows.jsonl").write_text("\n".join([*wrong[:1], rows[0]]) + "\n")
    common = ["verify", "rows.jsonl", "--temperature", "0.6", "--sandbox", "bubblewrap"]

    def run(name: str, *arguments: str) -> tuple[list[int], dict[str, int]]:
        result = CliRunner().invoke(app, [*common, "--out", name, *arguments])
        assert result.exit_code == 0, result.output
        metrics = json.loads(Path(name, "metrics.json").read_text())
        found = [json.loads(line) for line in Path(name, "rows.jsonl").read_text().splitlines()]
        assert all(row["tokens"].keys() >= {"saved"} for row in found)
        if metrics["tokens"]["saved"]:
            assert "saved by stopping early" in " ".join(result.stdout.split())
        return [row["first_error"] for row in sorted(found, key=lambda row: row["key"])], metrics["tokens"]

    errors, all_tokens = run("all", "--with-code", "--votes", "8")
    adaptive = ("--votes", "adaptive", "--confidence", "0.9", "--until", "first-error")
    fewer, tokens = run("fewer", "--with-code", *adaptive)
    assert fewer == errors
    assert all_tokens["saved"] == 0
    assert tokens["generated"] < 0.7 * all_tokens["generated"]
    # The saved tokens estimate the extra cost of the full run.
    assert tokens["generated"] + tokens["saved"] == pytest.approx(all_tokens["generated"], rel=0.25)
    automatic, _ = run("auto", "--with-code", "auto", "--votes", "1")
    assert automatic == errors
    assert json.loads(Path("auto", "run.json").read_text())["config"]["mode"] == "auto"
