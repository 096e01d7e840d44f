"""Options of `genprm synthesize`: rows as token ids, and invalid combinations."""

import asyncio
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.engines import BUILT_IN
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.profiles import GenPRMModel, read_profile
from genprm.train.rows import read_source
from genprm.train.token_rows import TokenSet, tokenize
from tests.rpe.test_synthesis import label_run


def test_the_generator_needs_no_cluster(tmp_path: Path) -> None:
    labels = label_run(tmp_path / "labels", 1)
    command = ["synthesize", str(labels), "--cluster", "ray", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "--cluster 'ray' is for a model as --teacher, and 'generator' is not one" in result.stderr


@pytest.mark.bubblewrap
def test_ids_are_what_train_sft_makes_of_the_messages(tmp_path: Path) -> None:
    """Written on a run that is finished; `genprm train sft` takes either folder."""
    out = tmp_path / "run"
    command = ["synthesize", str(label_run(tmp_path / "labels", 2)), "--sandbox", "bubblewrap", "--out", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = (out / "rows.jsonl").read_bytes()
    done = CliRunner().invoke(app, [*command, "--format", "ids", "--student", "nano"])
    assert done.exit_code == 0, done.output
    assert (out / "rows.jsonl").read_bytes() == before
    tokenizer, profile = Tokenizer.from_pretrained(str(BUILT_IN["nano"])), read_profile(str(BUILT_IN["nano"]))
    assert isinstance(profile, GenPRMModel)

    async def tokens(folder: Path) -> TokenSet:
        return await tokenize(read_source(folder), tokenizer, profile, max_length=8192)

    messages, ids = asyncio.run(tokens(out)), asyncio.run(tokens(out / "dataset-ids"))
    assert len(ids.rows) > 2
    assert ids.rows == messages.rows
    assert 0 < ids.learned < ids.tokens
    counts = json.loads((out / "metrics.json").read_text())
    assert (counts["id_sequences"], counts["id_tokens_learned"]) == (len(ids.rows), ids.learned)
    metadata = pq.read_schema(next((out / "dataset-ids" / "data").glob("*.parquet"))).metadata
    assert metadata[b"genprm.fingerprint"].decode() == tokenizer.fingerprint
    assert json.loads(metadata[b"genprm.profile"])["profile"]["seam"] == "split"


def test_ids_need_a_student(tmp_path: Path) -> None:
    labels = label_run(tmp_path / "labels", 1)

    def run(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["synthesize", str(labels), "--out", str(tmp_path / "run"), *more])
        return result.exit_code, " ".join(result.output.split())

    assert run("--format", "ids")[0] == 2
    assert "--format ids needs --student MODEL" in run("--format", "ids")[1]
    assert "--student 'nano' is for --format ids" in run("--student", "nano")[1]
    code, said = run("--format", "ids", "--student", str(tmp_path / "none"))
    assert code == 1
    assert "none" in said
    assert not (tmp_path / "run").exists()
