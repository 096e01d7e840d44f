"""A run over several drivers: shards, and the merged run."""

import json
import re
from contextlib import asynccontextmanager

import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.runs import opening
from genprm.runs.shards import Shard
from tests.judges import ArithmeticJudge

ROWS = [
    {"id": f"r{n}", "problem": f"What is {n} + {n}?", "steps": [f"{n} + {n} = {2 * n + (n % 3 == 0)}"], "label": -1}
    for n in range(24)
]
LINES = [json.dumps(row) for row in ROWS] + ["no row", json.dumps(ROWS[5]), '{"problem": "no steps"}']


@pytest.fixture(autouse=True)
def judge(monkeypatch, tmp_path):
    judge = ArithmeticJudge()

    @asynccontextmanager
    async def open_judge(config, *, seed, run, rows, tell):
        run.note({"weights": "sha256:1"}, fixed=("weights",))
        yield judge

    monkeypatch.setattr(opening, "open_judge", open_judge)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("".join(line + "\n" for line in LINES))
    return judge


def genprm(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})


def shard(number, count=4, *more):
    return genprm("verify", "in.jsonl", "--out", "runs/a", "--shard", f"{number}/{count}", *more)


def without_times(path):
    """The bytes of the rows, without times."""
    return re.sub(rb'"(seconds|duration_s)":[0-9.e-]+', rb"", path.read_bytes())


def test_four_shards_make_the_single_run_byte_for_byte(tmp_path):
    assert genprm("verify", "in.jsonl", "--out", "runs/one", "--concurrency", "1").exit_code == 1
    for number in (3, 1, 4, 2):
        assert shard(number).exit_code in (0, 1)
    done = [len((tmp_path / f"runs/a/shards/{n}-of-4/rows.jsonl").read_text().splitlines()) for n in (1, 2, 3, 4)]
    assert sum(done) == 24
    assert all(done), "an empty shard shows nothing"
    for _ in range(2):  # merging again gives the same
        merged = genprm("merge", "runs/a")
        assert merged.exit_code == 0, merged.output
        assert without_times(tmp_path / "runs/a/rows.jsonl") == without_times(tmp_path / "runs/one/rows.jsonl")
    metrics, one = (json.loads((tmp_path / f"runs/{name}/metrics.json").read_text()) for name in ("a", "one"))
    assert metrics | {"session": None} == one | {"session": None}
    printed = json.loads(genprm("merge", "runs/a", "--json").stdout)
    assert printed == json.loads(genprm("show", "runs/a", "--json").stdout)
    assert printed["metrics"]["rows"] == 24
    failed = [json.loads(line)["line"] for line in (tmp_path / "runs/a/failures.jsonl").read_text().splitlines()]
    assert sorted(failed) == [25, 27]
    assert (tmp_path / "runs/a/report.html").exists()
    # The same command without --shard finds nothing left to do.
    again = genprm("verify", "in.jsonl", "--out", "runs/a")
    assert "24 rows are done" in again.output
    assert without_times(tmp_path / "runs/a/rows.jsonl") == without_times(tmp_path / "runs/one/rows.jsonl")


def test_what_cannot_be_merged_is_refused(tmp_path, judge):
    assert "has no shards" in genprm("merge", "runs/a").output
    shard(1, 2)
    assert "2 did not run yet (--shard 2/2)" in " ".join(genprm("merge", "runs/a").output.split())
    shard(2, 2, "--limit", "5")
    assert "rows are not judged yet, some of shard 2/2" in " ".join(genprm("merge", "runs/a").output.split())
    shard(2, 2)
    assert genprm("merge", "runs/a").exit_code == 0
    # A row in two shards.
    first, second = (tmp_path / f"runs/a/shards/{n}-of-2/rows.jsonl" for n in (1, 2))
    whole = second.read_bytes()
    second.write_bytes(whole + first.read_bytes().splitlines(keepends=True)[0])
    assert "is in 1-of-2 and in 2-of-2" in " ".join(genprm("merge", "runs/a").output.split())
    second.write_bytes(whole)
    # A shard with other weights.
    info = tmp_path / "runs/a/shards/2-of-2/run.json"
    info.write_text(info.read_text().replace("sha256:1", "sha256:2"))
    assert "weights is 'sha256:1' and 'sha256:2'" in " ".join(genprm("merge", "runs/a").output.split())
    shard(1, 3)
    assert "has shards of 2 and of 3" in " ".join(genprm("merge", "runs/a").output.split())


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/2", "a/b"])
def test_a_shard_that_makes_no_sense_is_quoted(text):
    result = genprm("verify", "in.jsonl", "--shard", text)
    assert result.exit_code == 2
    assert repr(text) in result.output
    with pytest.raises(ValueError, match="K/N"):
        Shard.parse(text)
