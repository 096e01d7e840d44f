"""The documentation works: its code blocks run, its commands parse, its links exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.data.inputs import InputRow, Record, parse_row
from genprm.data.word_problems import make_problems
from genprm.search.recipe import load_recipe
from tests.conftest import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
WRITTEN = [page for page in PAGES if page.parent.name != "commands"]


# Files that a page's code blocks assume.
GIVEN = {
    "serve.md": "solutions = [solution]\n",
    "rewards.md": "from transformers import PreTrainedTokenizerFast\nfrom genprm.engines import BUILT_IN\n"
    "tokenizer = PreTrainedTokenizerFast.from_pretrained(BUILT_IN['nano'])\n"
    "group_scores, group_correct = [[0.1], [0.9]], [False, True]\n",
}


def run_python(folder: Path, *arguments: str, given: str | None = None) -> None:
    """Runs Python with this package in a folder; it must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=given,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-3000:])


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [target for target in targets if target and "://" not in target and not (page.parent / target).exists()]
    assert not missing


def commands() -> list:
    found = []
    for page in WRITTEN:
        for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    words = part.strip().removeprefix("$ ")
                    if words.startswith("genprm ") and "..." not in words:
                        found.append(pytest.param(words, id=f"{page.stem}: {words[:60]}"))
    return found


def words_of(line: str) -> list[str]:
    words = shlex.split(line.replace("$urls", ""), comments=True)[1:]
    return words[: next((place for place, word in enumerate(words) if word in ("|", ">", "&")), len(words))]


@pytest.mark.parametrize("line", commands())
def test_every_command_takes_the_options_it_is_shown_with(line):
    words = words_of(line)
    command = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"there is no command {words[:1]}"
    if command.name == "sandbox":
        return
    context = command.context_class(command, info_name=command.name)
    # Unknown options and values out of range are errors; nothing is run.
    command.parse_args(context, words)


DRY = re.compile(r"genprm (verify|bench processbench|label|synthesize|search|serve|train|loop)\b(?!.*--model models/)")
"""Commands that can say what they would load; a model that an earlier line trains is not there."""


@pytest.mark.parametrize("line", [one for one in commands() if DRY.match(str(one.values[0]))])
def test_every_command_resolves_its_models_and_settings(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    done = CliRunner().invoke(app, [*words_of(line), "--dry-run"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "# " in done.stdout or "rounds:" in done.stdout  # what it would load, or a loop's recipe


OURS = re.compile(
    r"genprm (demo|verify|label|synthesize|search|view)\b"
    r"(?!.*(--(model|policy|teacher|base-url|cluster|open|sandbox|prm)\b|recipes/math|math-train))"
)
"""Commands that need nothing but the package, and files that the test writes."""
SHORTER = {"search": ["--limit", "2"], "label": ["--limit", "2"]}


@pytest.mark.slow
@pytest.mark.bubblewrap
@pytest.mark.parametrize("page", ["README", "rpe", "search"])
def test_commands_on_the_built_in_models_run(page, tmp_path):
    for folder in ("recipes", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copy(ROOT / "examples/solutions.jsonl", tmp_path)
    rows = [{"problem": one.text, "answer": one.answer} for one in make_problems(2, seed=1)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [one.values[0] for one in commands() if str(one.id).startswith(f"{page}: ") and OURS.match(one.values[0])]
    assert len(lines) >= 2
    for words in map(words_of, lines):
        run_python(tmp_path, "-m", "genprm", *words, *SHORTER.get(words[0], []))


def pythons() -> list:
    return [
        pytest.param(GIVEN.get(page.name, ""), block, id=f"{name(page)}-{number}")
        for page in WRITTEN
        for number, block in enumerate(blocks(page, "python"))
    ]


@pytest.fixture(scope="module")
def service():
    """`genprm serve` at the address used in the documentation."""
    command = [sys.executable, "-m", "genprm", "serve", "--mode", "analyze"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "answers at http://127.0.0.1:8311" not in said:
            said = process.stderr.readline()
            assert said, "it ended"
        yield
        process.terminate()
        process.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize(("given", "block"), pythons())
def test_every_python_block_runs(given, block, tmp_path, request):
    if ":8311" in block:
        request.getfixturevalue("service")
    program = block
    if re.search(r"^async with|^\S.*\bawait\b", block, re.M):  # as in a notebook, at the top level
        program = "import asyncio\nasync def main():\n" + "".join(f"    {line}\n" for line in block.splitlines())
        program += "asyncio.run(main())\n"
    shared = (
        'problem = "Ann had 2 and got 3. How many?"\nsteps = ["She has 2+3 = 6."]\nsolution = steps[0]\nimport genprm\n'
    )
    run_python(tmp_path, "-c", shared + given + program)


@pytest.mark.parametrize("script", ["docs.py", "imports.py"])
def test_made_pages_are_up_to_date(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def all_blocks(language: str) -> list:
    return [
        pytest.param(block, id=f"{name(page)}-{number}")
        for page in WRITTEN
        for number, block in enumerate(blocks(page, language))
    ]


@pytest.mark.parametrize("block", all_blocks("yaml"))
def test_every_yaml_block_is_a_recipe_or_a_manifest(block, tmp_path):
    for number, document in enumerate(yaml.safe_load_all(block)):
        if "apiVersion" in document:
            assert document["kind"], document
            continue
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(document))
        assert load_recipe(path, (), {}).n >= 1


@pytest.mark.parametrize("block", all_blocks("bash"))
def test_every_shell_block_parses(block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", all_blocks("json"))
def test_every_json_block_is_a_row(block):
    for number, line in enumerate(block.splitlines(), start=1):
        assert isinstance(parse_row(Record("docs", number, json.loads(line))), InputRow)


def test_every_kind_of_block_has_a_test():
    known = {"", "text", "python", "yaml", "bash", "sh", "json"}
    for page in WRITTEN:
        # Every second fence opens a block.
        fences = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.M)
        assert {*fences[::2]} <= known, name(page)


@pytest.mark.slow
def test_the_notebook_runs_where_an_event_loop_runs_already(tmp_path):
    notebook = json.loads((ROOT / "examples/judge.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    program = (
        "import ast, asyncio, inspect, json, sys\n"
        "names = {}\n"
        "async def main():\n"
        "    for cell in json.load(sys.stdin):\n"
        "        code = compile(cell, 'cell', 'exec', flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)\n"
        "        made = eval(code, names)\n"
        "        if inspect.iscoroutine(made):\n"
        "            await made\n"
        "asyncio.run(main())\n"
    )
    run_python(tmp_path, "-c", program, given=json.dumps([cell for cell in cells if not cell.startswith("%")]))
