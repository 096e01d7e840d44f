import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from genprm.runs.folder import RunError, open_run, read_info, read_rows_of

CONFIG = {"model": "nano", "votes": 1, "limit": 5}
FREE = ("limit",)


class Row(BaseModel):
    key: str
    value: str = ""


def opened(path: Path, *, clean: bool = False, **changes: str | int | None):
    return open_run(path, command="verify", config={**CONFIG, **changes}, free=FREE, clean=clean)


def keys(path: Path) -> list[str]:
    return [row.key for row in read_rows_of(path, Row)]


def test_rows_are_there_the_moment_they_are_added(tmp_path):
    with opened(tmp_path / "run") as run:
        run.add(Row(key="a", value="x\ny"), "a")
        assert (tmp_path / "run/rows.jsonl").read_text() == '{"key":"a","value":"x\\ny"}\n'
        assert run.done == {"a"}
        with pytest.raises(RunError, match="already has a row with the key 'a'"):
            run.add(Row(key="a"), "a")
        with pytest.raises(ValueError, match="first field"):
            run.add(Row(key="b"), "c")


def test_going_on(tmp_path):
    with opened(tmp_path) as run:
        run.add(Row(key="a"), "a")
        run.add_failure(Row(key="b"))
    with opened(tmp_path, limit=7) as run:
        assert run.done == {"a"}
        assert not list(read_rows_of(tmp_path, Row, "failures.jsonl"))
        run.add(Row(key="b"), "b")
    assert keys(tmp_path) == ["a", "b"]
    info = read_info(tmp_path)
    assert info.config["limit"] == 7
    assert len(info.resumed) == 1
    assert info.versions["python"] == sys.version.split()[0]


@pytest.mark.parametrize("torn", ['{"key":"b","val', '{"key":"b"}', "\0\0\0", '{"key":"b","value"\n', "{"])
def test_torn_last_line_is_done_again(tmp_path, torn):
    with opened(tmp_path) as run:
        run.add(Row(key="a"), "a")
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(torn)
    with opened(tmp_path) as run:
        assert run.done == {"a"}
        run.add(Row(key="b"), "b")
    assert keys(tmp_path) == ["a", "b"]


def test_damage_elsewhere_is_not_passed_over(tmp_path):
    with opened(tmp_path) as run:
        run.add(Row(key="a"), "a")
    (tmp_path / "rows.jsonl").write_text('garbage\n{"key":"a"}\n')
    with pytest.raises(RunError, match=r"rows.jsonl, line 1 is damaged"), opened(tmp_path):
        pass
    with pytest.raises(RunError, match=r"rows.jsonl, line 1 is damaged"):
        keys(tmp_path)


def test_changed_configuration_is_refused_by_name(tmp_path):
    with opened(tmp_path) as run:
        run.add(Row(key="a"), "a")
    changes = r"(?s)  model: 'nano' -> 'other'\n  votes: 1 -> 8\n.*--clean"
    with pytest.raises(RunError, match=changes) as caught, opened(tmp_path, model="other", votes=8, limit=9):
        pass
    assert "limit" not in str(caught.value)
    assert keys(tmp_path) == ["a"]
    with opened(tmp_path, votes=8, clean=True) as run:
        assert run.done == set()
    assert read_info(tmp_path).config["votes"] == 8


def test_another_commands_folder_is_refused(tmp_path):
    with opened(tmp_path):
        pass
    refine = open_run(tmp_path, command="refine", config=CONFIG, free=FREE)
    with pytest.raises(RunError, match=r"holds a run of `genprm verify`, and this is `genprm refine`: [^\n]*$"), refine:
        pass


@pytest.mark.parametrize("clean", [False, True])
def test_a_folder_with_other_things_is_left_alone(tmp_path, clean):
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "rows.jsonl").write_text("x")
    reason = r"not a run's folder and not empty \(it has 'rows.jsonl'\)"
    with pytest.raises(RunError, match=reason), opened(tmp_path, clean=clean):
        pass
    assert (tmp_path / "rows.jsonl").read_text() == "x"


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunError, match=r"cannot use .* File exists"), opened(tmp_path / "run"):
        pass


def test_facts_that_must_not_change(tmp_path):
    with opened(tmp_path) as run:
        run.note({"model_hash": "1", "sandbox": "docker"}, fixed=["model_hash"])
        run.add(Row(key="a"), "a")
    with opened(tmp_path) as run:
        run.note({"model_hash": "1", "sandbox": "bubblewrap"}, fixed=["model_hash"])
        with pytest.raises(RunError, match="model_hash: '1' -> '2'"):
            run.note({"model_hash": "2"}, fixed=["model_hash"])
    assert read_info(tmp_path).facts == {"model_hash": "1", "sandbox": "bubblewrap"}


def test_a_run_without_rows_may_change_its_facts(tmp_path):
    with opened(tmp_path) as run:
        run.note({"model_hash": "1"}, fixed=["model_hash"])
    with opened(tmp_path) as run:
        run.note({"model_hash": "2"}, fixed=["model_hash"])


def test_one_writer_at_a_time(tmp_path):
    code = f"""
from pathlib import Path
from genprm.runs.folder import open_run
with open_run(Path({str(tmp_path)!r}), command="verify", config={CONFIG!r}, free={FREE!r}):
    print("open", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(RunError, match=f"in use by process {process.pid} on"), opened(tmp_path):
            pass
        process.kill()
    # The lock is released with the process, however it ends.
    with opened(tmp_path):
        pass


def test_not_a_run(tmp_path):
    with pytest.raises(RunError, match=r"not the folder of a run: it has no run.json"):
        read_info(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot read .*run.json"):
        read_info(tmp_path)


def test_reading_while_another_process_writes(tmp_path):
    with opened(tmp_path) as run:
        run.add(Row(key="a"), "a")
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write('{"key":"b"')
        assert keys(tmp_path) == ["a"]
    assert not list(read_rows_of(tmp_path / "nothing", Row))
