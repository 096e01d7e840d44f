"""Files and rows as other projects write them."""

import csv
import gzip
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genprm.benchmarks.prmbench import read_prmbench
from genprm.data.inputs import BadRow, InputError, InputRow, count_rows, read_rows
from genprm.data.pools import PoolItem, read_pool
from genprm.data.problems import read_problems
from tests.benchmarks.shared import shared_data

ROWS = [
    {"problem": "What is 1 + 1?", "steps": ["1 + 1 = 2", "So \\boxed{2}."], "id": "a", "answer": "2", "label": -1},
    {"problem": "Und 2·2, \u00e4h?", "steps": ["2, 2", "= 5"], "id": "b", "answer": "4", "label": 1},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def table(separator: str) -> bytes:
    lines = [["problem", "steps", "id", "answer", "label"]]
    lines += [[row["problem"], json.dumps(row["steps"]), row["id"], row["answer"], row["label"]] for row in ROWS]
    path = Path("rows.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(lines)
    return path.read_bytes()


def parquet() -> bytes:
    pq.write_table(pa.Table.from_pylist(ROWS), "rows.parquet")
    return Path("rows.parquet").read_bytes()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "lines.jsonl": lambda: LINES,
    "array.json": lambda: json.dumps(ROWS, indent=2).encode(),
    "wrapped.json": lambda: json.dumps({"data": ROWS}).encode(),
    "wrapped-pretty.json": lambda: json.dumps({"version": 1, "rows": ROWS}, indent=2).encode(),
    "objects.json": lambda: "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "lines.jsonl.gz": lambda: gzip.compress(LINES),
    "lines.jsonl.zst": lambda: zstd(LINES),
    "no-suffix": lambda: gzip.compress(LINES),
    "utf16.jsonl": lambda: LINES.decode().encode("utf-16"),
    "table.csv": lambda: table(","),
    "table.tsv": lambda: table("\t"),
    "table.csv.gz": lambda: gzip.compress(table(",")),
    "table": lambda: table(","),
    "rows.parquet": parquet,
    "rows": parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("input").mkdir()
    path = Path("input") / name
    path.write_bytes(FORMATS[name]())
    rows = list(read_rows([path]))
    assert [(row.problem, list(row.steps), row.id, row.answer, row.label) for row in rows] == [
        (row["problem"], row["steps"], row["id"], row["answer"], row["label"]) for row in ROWS
    ]
    assert count_rows([path]) == 2


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"# Notes\n\nThis is prose.\nMore.\n", "begins with '# Notes'"),
        (b"PAR1 but no more", "begins like a Parquet file"),
        (b"\x1f\x8bbroken", "cannot read"),
    ],
)
def test_a_file_of_another_kind_is_one_message(start, what, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(start)
    with pytest.raises(InputError, match=what):
        list(read_rows([path]))


def test_an_empty_file_is_a_warning(tmp_path, caplog):
    path = tmp_path / "in.jsonl"
    path.write_text("\n\n")
    with caplog.at_level(logging.WARNING):
        assert list(read_rows([path])) == []
    assert f"{path} is empty" in caplog.text


def one(row: object, tmp_path: Path) -> InputRow:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row))
    (found,) = read_rows([path])
    assert isinstance(found, InputRow), found
    return found


def test_stepwise_supervision_of_trl(tmp_path):
    row = one({"prompt": "p", "completions": ["a", "b", "c"], "labels": [True, False, True]}, tmp_path)
    assert (row.problem, row.steps, row.label) == ("p", ("a", "b", "c"), 1)
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    row = one({"prompt": chat, "completions": ["a"], "labels": [1]}, tmp_path)
    assert (row.problem, row.label) == ("q", -1)


def test_labels_that_are_whole_numbers_and_steps_that_are_one_text(tmp_path):
    row = one({"problem": "p", "steps": "First.\n\nSecond.", "label": 1.0}, tmp_path)
    assert (row.steps, row.label) == (("First.", "Second."), 1)
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"problem": "p", "steps": ["a", "b"], "label": 0.5}))
    assert isinstance(next(read_rows([path])), BadRow)


def prm800k(*ratings: int, finish: str = "solution", human: bool = False) -> dict[str, object]:
    steps = [
        {
            "completions": [{"text": f"s{n}", "rating": rating}, {"text": "other", "rating": 1}],
            "chosen_completion": 0 if rating >= 0 else None,
            "human_completion": {"text": "by hand", "rating": None} if human and rating < 0 else None,
        }
        for n, rating in enumerate(ratings)
    ]
    question = {"problem": "p", "ground_truth_answer": "7"}
    return {"question": question, "label": {"steps": steps, "finish_reason": finish}}


def test_prm800k(tmp_path):
    row = one(prm800k(1, 0, 1), tmp_path)
    assert (row.problem, row.answer, row.steps, row.label) == ("p", "7", ("s0", "s1", "s2"), -1)
    assert one(prm800k(1, -1, finish="found_error"), tmp_path).label == 1
    assert one(prm800k(1, 0, finish="give_up"), tmp_path).label is None
    mended = one(prm800k(1, -1, 1, human=True), tmp_path)
    assert (mended.steps, mended.label) == (("s0", "by hand", "s2"), -1)


@pytest.mark.shared_data
def test_the_examples_of_prm800k():
    first, second = read_rows([shared_data(f"prm800k/prm800k-phase{n}-test-example.json") for n in (1, 2)])
    assert (first.label, first.answer) == (-1, "29")
    assert (second.label, second.answer, len(second.steps)) == (6, "28800", 7)


def test_a_pool_says_what_it_is(tmp_path):
    path = tmp_path / "pool.jsonl"
    row = {"question": "q", "solution": "gold", "code": ["a", "b"], "pred": ["1", "2"], "score": [True, False]}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"is a best-of-n pool.*genprm bench best-of-n"):
        list(read_rows([path]))
    item, again = read_pool([path])
    assert isinstance(item, PoolItem)
    assert isinstance(again, BadRow)
    assert again.duplicate


def test_names_of_the_hub(monkeypatch):
    from genprm.data import records

    asked: list[object] = []

    def load(name: str, *, split: str, config: str | None = None):
        asked.append((name, split, config))
        yield records.Record(name, 1, ROWS[0])

    monkeypatch.setattr(records, "load_records", load)
    first, second = read_rows(["hf://Qwen/ProcessBench/math", "hf://a/b@c/test"])
    assert isinstance(first, InputRow)
    assert isinstance(second, BadRow)
    assert second.duplicate
    assert asked == [("Qwen/ProcessBench", "math", None), ("a/b", "test", "c")]
    with pytest.raises(InputError, match="write hf://OWNER/NAME/SPLIT"):
        list(read_rows(["hf://Qwen"]))


def test_reference_answers_of_gsm8k_and_math(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [
        {"question": "q1", "answer": "48/2 = <<48/2=24>>24\n#### 24"},
        {"problem": "q2", "solution": "So it is \\boxed{\\frac{1}{2}}."},
        {"problem": "q3", "answer": " "},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.answer for row in read_problems([path])] == ["24", "\\frac{1}{2}", None]


def test_prmbench_given_twice(tmp_path):
    path = tmp_path / "prmbench.jsonl"
    row = {"modified_question": "q", "modified_process": ["a"], "error_steps": [1], "classification": "x", "idx": "1"}
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "classification": "y"}) + "\n")
    found = list(read_prmbench([path, path]))
    assert [isinstance(item, BadRow) and item.duplicate for item in found] == [False, False, True, True]
