import io
import json
import os
import threading
from pathlib import Path

import pytest

from genprm.data.inputs import BadRow, InputError, InputRow, count_rows, read_rows
from genprm.data.records import can_be_read_twice

GOOD = {"problem": "What is 1 + 1?", "steps": ["1 + 1 = 2"], "id": "a", "answer": "2", "label": -1}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def one(tmp_path: Path, row: object) -> InputRow | BadRow:
    (found,) = read_rows([write(tmp_path / "in.jsonl", row)])
    return found


def test_jsonl(tmp_path):
    row = one(tmp_path, GOOD)
    assert isinstance(row, InputRow)
    assert (row.problem, row.steps, row.id, row.answer, row.label) == ("What is 1 + 1?", ("1 + 1 = 2",), "a", "2", -1)
    assert (row.file, row.line) == (str(tmp_path / "in.jsonl"), 1)


def test_array_and_lines_give_the_same_rows(tmp_path):
    rows = [GOOD, {**GOOD, "id": "b"}]
    array = tmp_path / "in.json"
    array.write_text(" \n" + json.dumps(rows, indent=1))
    lines = write(tmp_path / "in.jsonl", rows[0], "", rows[1])
    from_array = [row for row in read_rows([array]) if isinstance(row, InputRow)]
    from_lines = [row for row in read_rows([lines]) if isinstance(row, InputRow)]
    assert [row.key for row in from_array] == [row.key for row in from_lines]
    assert [row.line for row in from_array] == [1, 2]
    assert [row.line for row in from_lines] == [1, 3]
    assert count_rows([array, lines]) == 4


def test_question_and_solution_and_numbers(tmp_path):
    row = one(tmp_path, {"question": "Q?", "solution": "One.\n\nTwo.", "id": 7, "answer": 2.5})
    assert isinstance(row, InputRow)
    assert (row.problem, row.steps, row.id, row.answer, row.label) == ("Q?", ("One.", "Two."), "7", "2.5", None)


def test_trailing_blank_step_is_dropped(tmp_path):
    row = one(tmp_path, {**GOOD, "steps": ["a", " "], "label": 0})
    assert isinstance(row, InputRow)
    assert row.steps == ("a",)


def test_bom_and_windows_lines(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert [type(row) for row in read_rows([path])] == [InputRow]


def test_repeated_rows_are_named_and_the_key_depends_on_the_content_alone(tmp_path):
    first = write(tmp_path / "a.jsonl", GOOD, GOOD, {**GOOD, "label": 0}, GOOD)
    rows = list(read_rows([first]))
    assert [type(row) for row in rows] == [InputRow, BadRow, InputRow, BadRow]
    assert all(
        row.duplicate and row.reason == f"the same as {first}, line 1" for row in rows if isinstance(row, BadRow)
    )
    again = write(tmp_path / "b.jsonl", {"x": 1}, dict(reversed(GOOD.items())))
    assert [row.key for row in read_rows([again]) if isinstance(row, InputRow)] == [rows[0].key]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("3", "must be a JSON object, not 3"),
        ("[" * 100_000, "not JSON"),
        ({"steps": ["a"]}, 'needs "problem" (or "question", or "prompt"); this one has \'steps\''),
        ({"problem": " ", "steps": ["a"]}, '"problem" must be a text that is not blank'),
        (
            {"problem": "p", "text": "x"},
            'needs "steps" (a list of texts) or "solution" (a text); this one has \'problem\'',
        ),
        ({"problem": "p", "steps": {}}, '"steps" must be a list with at least one text, not {}'),
        ({"prompt": "p", "completions": ["a"], "labels": [True, False]}, "one label for each of 1 steps, not 2"),
        ({"prompt": "p", "completions": ["a"], "labels": ["x"]}, "must be true or false, not 'x'"),
        ({"problem": "p", "steps": []}, "at least one"),
        ({"problem": "p", "steps": ["a", 3]}, "step 1 must be a text that is not blank, not 3"),
        ({"problem": "p", "steps": ["", "a"]}, "step 0"),
        ({"problem": "p", "solution": "\n"}, "blank"),
        ({**GOOD, "label": 1}, "one of 1 steps, not 1"),
        ({**GOOD, "label": True}, "not True"),
        ({**GOOD, "label": -2}, "not -2"),
        ({**GOOD, "id": ["a"]}, '"id" must be a text or a number'),
        ({**GOOD, "problem": "\ud800"}, "surrogate"),
    ],
)
def test_malformed_rows_say_where_and_why_and_the_rest_goes_on(tmp_path, row, reason):
    # The first row is good: a file that starts with "[" would be read as an array.
    path = write(tmp_path / "in.jsonl", GOOD, row, {**GOOD, "id": "b"})
    before, bad, after = read_rows([path])
    assert isinstance(before, InputRow)
    assert isinstance(after, InputRow)
    assert isinstance(bad, BadRow)
    assert (bad.file, bad.line) == (str(path), 2)
    assert reason in bad.reason
    assert len(bad.reason) < 300


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"problem": "\xff"}\n' + json.dumps(GOOD).encode())
    bad, good = read_rows([path])
    assert isinstance(bad, BadRow)
    assert "not UTF-8" in bad.reason
    assert isinstance(good, InputRow)


def test_limit_counts_bad_rows_too(tmp_path):
    path = write(tmp_path / "in.jsonl", "{", GOOD, GOOD)
    assert [type(row) for row in read_rows([path], limit=2)] == [BadRow, InputRow]


@pytest.mark.parametrize("text", ["[1, 2", '[{"a": 1}] x'])
def test_broken_array(tmp_path, text):
    path = tmp_path / "in.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a JSON array"):
        list(read_rows([path]))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"cannot read '.*nothing.jsonl': No such file"):
        list(read_rows([tmp_path / "nothing.jsonl"]))
    with pytest.raises(InputError, match="Is a directory"):
        count_rows([tmp_path])


def test_standard_input(monkeypatch):
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(json.dumps([GOOD]).encode()))

    monkeypatch.setattr("sys.stdin", Stdin())
    assert count_rows(["-"]) is None
    (row,) = read_rows(["-"])
    assert isinstance(row, InputRow)
    assert (row.file, row.line) == ("<stdin>", 1)


def test_the_first_rows_of_an_open_pipe_need_no_more_than_themselves():
    """The writer keeps the pipe open without writing more."""
    reader, writer = os.pipe()
    os.write(writer, b"".join(json.dumps({**GOOD, "id": f"{number}"}).encode() + b"\n" for number in range(2)))
    try:
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.extend(read_rows([f"/dev/fd/{reader}"], limit=2)), daemon=True)
        thread.start()
        thread.join(10)
        assert [type(row) for row in found] == [InputRow, InputRow]
    finally:
        os.close(writer)
        thread.join(10)
        os.close(reader)


def test_a_pipe_is_not_read_to_be_counted():
    reader, writer = os.pipe()
    os.write(writer, json.dumps(GOOD).encode())
    os.close(writer)
    name = f"/dev/fd/{reader}"
    assert count_rows([name]) is None
    assert not can_be_read_twice([name])
    assert len(list(read_rows([name]))) == 1
    os.close(reader)


def test_a_sample_is_chosen_by_the_seed(tmp_path):
    path = write(tmp_path / "in.jsonl", *[{**GOOD, "id": number} for number in range(100)])

    def ids(**options) -> list[int]:
        return [int(row.id) for row in read_rows([path], **options)]

    ten = ids(sample=10, seed=1)
    assert ten == ids(sample=10, seed=1) == sorted(ten)
    assert ten != ids(sample=10, seed=2) != list(range(10))
    assert ids(sample=10, seed=1, limit=3) == ten[:3]
    assert ids(sample=1000) == list(range(100))


def test_lines_are_streamed(tmp_path):
    """The first row is read from a pipe whose writer is still open."""
    path = write(tmp_path / "in.jsonl", *[GOOD] * 3)
    rows = read_rows([path])
    next(rows)
    with path.open("a") as file:
        file.write(json.dumps({**GOOD, "id": "later"}) + "\n")
    assert [row.id for row in rows if isinstance(row, InputRow)][-1] == "later"
