"""First-hour experience: output, logs, full disks, files with other names, missing libraries."""

import errno
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from genprm.cli.boundary import explained
from genprm.cli.main import app
from genprm.runs import opening
from tests.conftest import ROOT
from tests.judges import ArithmeticJudge

ROWS = [{"id": f"row-{n}", "problem": "p", "steps": [f"{n} = {n}", "2 = 3"], "label": 1} for n in range(12)]


@pytest.fixture
def solutions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "solutions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def genprm(*arguments: str, **how):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80"}, **how)


def walk(command, name="genprm"):
    yield name, command
    for child, one in getattr(command, "commands", {}).items():
        yield from walk(one, f"{name} {child}")


def test_usage_lines_read_as_those_of_other_tools():
    for name, command in walk(typer.main.get_command(app)):
        context = command.context_class(command, info_name=name)
        usage = " ".join(command.get_usage(context).split())
        assert not any(odd in usage for odd in ("{", "[[", "......")), usage
    verify = typer.main.get_command(app).commands["verify"]
    assert "genprm verify [OPTIONS] FILE..." in verify.get_usage(
        verify.context_class(verify, info_name="genprm verify")
    )


@pytest.mark.parametrize("place", [0, 1, 4])
def test_quiet_stands_anywhere_and_leaves_results(solutions, judge, place):
    genprm("verify", "solutions.jsonl", "--out", "run", "--limit", "3")
    words = ["verify", "solutions.jsonl", "--out", "run"]
    result = genprm(*words[:place], "-q", *words[place:])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "solutions judged" in result.stdout
    assert "12 rows are done" in genprm("verify", "solutions.jsonl", "--out", "run").stderr


def test_debug_stands_anywhere(solutions, judge, monkeypatch):
    monkeypatch.setattr(ArithmeticJudge, "facts", property(lambda self: 1 / 0))
    monkeypatch.setattr(opening, "open_judge", lambda *_, **__: 1 / 0)
    result = genprm("verify", "solutions.jsonl", "--out", "run", "--debug")
    logging.getLogger("genprm").setLevel(logging.NOTSET)
    assert isinstance(result.exception, ZeroDivisionError)
    # A value with a dash after -- is unchanged.
    assert genprm("verify", "--out", "run2", "--", "-v").exit_code == 2


def test_json_in_place_of_the_table(solutions, judge):
    result = genprm("verify", "solutions.jsonl", "--out", "run", "--json")
    found = json.loads(result.stdout)
    assert (found["command"], found["metrics"]["rows"]) == ("verify", 12)
    shown = json.loads(genprm("show", "run", "--json").stdout)
    assert shown["metrics"] == found["metrics"]
    compared = json.loads(genprm("bench", "compare", "run", "run", "--json").stdout)
    assert compared[0]["first"] == compared[0]["second"]


def test_a_file_is_known_by_its_content_and_nothing_is_opened_again(solutions, judge, tmp_path, monkeypatch):
    first = genprm("verify", "solutions.jsonl", "--out", "run")
    shutil.copy(solutions, tmp_path / "copy.jsonl")

    def never(*_, **__):
        raise AssertionError("a finished run needs no judge")

    monkeypatch.setattr(opening, "open_judge", never)
    for name in (str(solutions), "./solutions.jsonl", "copy.jsonl"):
        again = genprm("verify", name, "--out", "run")
        assert again.exit_code == 0, again.output
        assert again.stdout.splitlines()[:13] == first.stdout.splitlines()[:13]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(ROWS[0]) + "\n")
    refused = genprm("verify", "other.jsonl", "--out", "run")
    assert refused.exit_code == 2
    assert "files: copy.jsonl -> other.jsonl" in " ".join(refused.stderr.split())


def test_without_out_a_file_has_one_folder_by_whatever_path(solutions, judge, tmp_path):
    for name in ("solutions.jsonl", str(solutions)):
        assert genprm("verify", name).exit_code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_file_that_has_grown_goes_on(solutions, judge):
    genprm("verify", "solutions.jsonl", "--out", "run")
    with solutions.open("a") as file:
        file.write(json.dumps({"problem": "new", "steps": ["1 = 1"]}) + "\n")
    assert genprm("verify", "solutions.jsonl", "--out", "run").exit_code == 0
    assert len(judge.judged) == 13


def test_another_commands_folder_is_one_line(solutions, judge):
    genprm("verify", "solutions.jsonl", "--out", "run")
    refused = genprm("search", "builtin:best-of-n", "--out", "run")
    assert refused.exit_code == 2
    assert "holds a run of `genprm verify`, and this is `genprm search`" in " ".join(refused.stderr.split())
    assert len(refused.stderr.splitlines()) <= 3


async def test_places_are_those_of_the_input_whichever_worker_takes_a_row(tmp_path):
    """Fewer workers than rows, and rows that end at any time: a waiting worker and a busy one race for the next row."""
    import asyncio

    from genprm.runs.driver import Finished, Progress, drive
    from genprm.runs.folder import open_run
    from genprm.runs.rows import ItemRow
    from tests.judges import row

    items = [row(number) for number in range(60)]
    with open_run(tmp_path / "run", command="verify", config={}) as run:

        async def work(item):
            for _ in range(item.line * 7 % 5):
                await asyncio.sleep(0)
            return Finished(ItemRow(key=item.key), 0)

        progress = await drive(items, run, work, concurrency=7, progress=Progress())
        written = [json.loads(line)["key"] for line in (tmp_path / "run/rows.jsonl").read_text().splitlines()]
        assert written != [item.key for item in items]
        assert [row.key for row in run.rows(ItemRow)] == [item.key for item in items]
    assert progress.keys == {item.key: place for place, item in enumerate(items)}


def test_rows_stand_in_the_order_of_the_input(solutions, judge, monkeypatch):
    import asyncio

    judge_one = ArithmeticJudge.judge

    async def slower_first(self, problem, steps, *, seed=0):
        await asyncio.sleep(0.02 * (12 - int(steps[0].split()[0])))
        return await judge_one(self, problem, steps, seed=seed)

    monkeypatch.setattr(ArithmeticJudge, "judge", slower_first)
    judged = genprm("verify", "solutions.jsonl", "--out", "run", "--concurrency", "12")
    written = [json.loads(line)["id"] for line in Path("run/rows.jsonl").read_text().splitlines()]
    names = [row["id"] for row in ROWS]
    assert written != names
    for result in (judged, genprm("show", "run")):
        assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith("row-")] == names
    page = genprm("view", "run")
    assert page.exit_code == 0
    text = Path("run/report.html").read_text()
    assert text.index('"id":"row-0"') < text.index('"id":"row-11"')


@pytest.fixture
def small_disk(tmp_path):
    """A file system with almost no space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small file system needs root: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_while_the_page_is_written(solutions, judge, small_disk):
    result = genprm("verify", "solutions.jsonl", "--out", str(small_disk / "run"))
    assert result.exit_code == 1
    assert "solutions judged 12" in " ".join(result.stdout.split())
    assert "report.html': No space left on device" in " ".join(result.stderr.split())
    assert "is a bug" not in result.stderr
    assert not [path.name for path in (small_disk / "run").iterdir() if "report" in path.name]
    assert len((small_disk / "run/rows.jsonl").read_text().splitlines()) == 12


def test_a_full_disk_while_rows_are_written(solutions, judge, small_disk):
    (small_disk / "filler").write_bytes(b"x" * 40 * 1024)
    with solutions.open("a") as file:
        file.writelines(json.dumps({"problem": str(n) * 400, "steps": ["1 = 1"]}) + "\n" for n in range(99))
    result = genprm("verify", "solutions.jsonl", "--out", str(small_disk / "run"))
    assert result.exit_code == 1
    assert "solutions judged" in result.stdout
    said = " ".join(result.stderr.split())
    assert "cannot write" in said
    assert "No space left on device" in said
    assert "is a bug" not in said
    rows = (small_disk / "run/rows.jsonl").read_bytes()
    assert rows.endswith(b"}\n")
    (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert genprm("verify", "solutions.jsonl", "--out", str(small_disk / "run")).exit_code == 0
    assert len((small_disk / "run/rows.jsonl").read_text().splitlines()) == 111


def test_a_missing_library_is_named_before_anything_starts(solutions, judge, monkeypatch):
    genprm("verify", "solutions.jsonl", "--out", "run")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else there(name))
    result = genprm("calibrate", "run")
    assert result.exit_code == 1
    assert "needs scikit-learn: pip install 'genprm[calibrate]'" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_the_log_has_what_libraries_print(solutions, tmp_path):
    program = (
        "import os, sys, logging, warnings\n"
        "from genprm.runs import opening\n"
        "from contextlib import asynccontextmanager\n"
        "from tests.judges import ArithmeticJudge\n"
        "@asynccontextmanager\n"
        "async def open_judge(config, *, seed, run, rows, tell):\n"
        "    print('a library prints'); os.write(1, b'below python\\n'); warnings.warn('a warning')\n"
        "    logging.getLogger('other').warning('another logs'); os.system('echo a child prints')\n"
        "    tell('a remark'); yield ArithmeticJudge()\n"
        "opening.open_judge = open_judge\n"
        "from genprm.cli.main import main\n"
        "sys.argv = ['genprm', 'verify', 'solutions.jsonl', '--out', 'run', *sys.argv[1:]]\n"
        "main()\n"
    )

    def run(*more: str):
        return subprocess.run(
            [sys.executable, "-c", program, *more], cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    done = run()
    log = (tmp_path / "run/run.log").read_text()
    for text in ("a library prints", "below python", "a warning", "another logs", "a child prints"):
        assert text in log
        assert text not in done.stdout + done.stderr
    assert "a remark" in done.stderr
    assert "solutions judged" in done.stdout
    assert done.stdout.rstrip().endswith("page: run/report.html")
    assert "a library prints" in run("--clean", "-v").stdout


def test_search_takes_files_in_place_of_the_recipes_problems(solutions):
    result = genprm("search", "builtin:best-of-n", "solutions.jsonl", "--dry-run")
    assert result.exit_code == 0, result.output
    plan = " ".join(result.stdout.split())
    assert "files: - solutions.jsonl" in plan
    assert "generate: null" in plan
    assert "pool: []" in plan


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_explained(number):
    code, said = explained(OSError(number, os.strerror(number), "dataset/plots"))
    assert code == 1
    assert said.endswith("'dataset/plots'. Make room, then run the same command again: finished rows are kept")


def test_one_solution_is_in_the_singular(solutions, judge):
    result = genprm("verify", "solutions.jsonl", "--limit", "1", "--out", "run")
    assert "1 solution, " in " ".join(result.stdout.split())
    assert "1 solutions" not in result.stdout
