"""Token rows as a file: one run writes them, another trains on them unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genprm.engines import BUILT_IN
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.genprm.protocol import RELEASED
from genprm.prms.profiles import GenPRMModel
from genprm.train.rows import TrainError, content_of, read_source
from genprm.train.token_rows import tokenize, write_parquet
from tests.train.test_sft import conversation

RELEASED_MODEL = GenPRMModel(profile=RELEASED)


async def test_token_rows_written_as_parquet_are_read_back_as_they_were(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(str(BUILT_IN["nano"]))
    source = tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps(conversation(k)) + "\n" for k in range(3)))
    made = await tokenize(read_source(source), tokenizer, RELEASED_MODEL, max_length=4096)
    assert len(made.rows) > len(made.labels) == 3  # one turn per row: the released profile has no assistant marker
    write_parquet(tmp_path / "ids" / "train.parquet", made, {"tokenizer": tokenizer.fingerprint})
    again = await tokenize(read_source(tmp_path / "ids"), tokenizer, RELEASED_MODEL, max_length=4096)
    assert again.rows == made.rows

    import datasets

    loaded = datasets.load_dataset("parquet", data_dir=str(tmp_path / "ids"), cache_dir=str(tmp_path / "c"))["train"]
    assert loaded[0]["input_ids"] == made.rows[0].input_ids
    assert loaded[0]["labels"] == made.rows[0].labels


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"problem": ["p"] * 1000}), file)
    assert len(list(read_source(file))) == 1000
    for damaged in (file.read_bytes()[:-9], b'{"problem": "p"}\n', b""):
        file.write_bytes(damaged)
        with pytest.raises(TrainError, match=r"cannot read '.*rows.parquet' as Parquet: .* Copy or make it again"):
            list(read_source(file))


def test_the_hash_of_a_data_set_is_that_of_its_files(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "data" / "one.jsonl", tmp_path / "a" / "data" / "other.jsonl"
    one.parent.mkdir(parents=True)
    one.write_text('{"problem": "p"}\n')
    before = content_of(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("no row")
    assert content_of(tmp_path / "a") == before == content_of(one)
    other.write_text('{"problem": "q"}\n')
    assert content_of(tmp_path / "a") != before
    assert content_of("someone/on-the-hub") is None
    with pytest.raises(TrainError, match=r"there is no data set '.*none.jsonl'"):
        content_of(tmp_path / "none.jsonl")
