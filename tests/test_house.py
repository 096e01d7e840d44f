"""The rules of the code base: imports, sizes, and names that do not collide with a user's own."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from scripts.imports import PICTURE, ROOT, draw, imports, modules, room_of, storey_of

LINES = 400
PARAMETERS = 10
RELEASED = {"genprm.prms.thinkprm.released.__init__"}
"""It has the parameters of ThinkPRM's released class, so that scripts written for that run."""
COMMAND = re.compile(r"genprm\.cli\.")
"""Whether a function's parameters are a command's options."""


def test_no_arrow_points_up():
    unknown = {room_of(name) for name in modules() if name != "genprm"}
    assert not {room for room in unknown if storey_of(room) is None}, "give the room a storey in scripts/imports.py"
    up = [
        f"{one.source} -> {one.target}"
        for one in imports()
        if (above := storey_of(room_of(one.source))) is not None
        and (below := storey_of(room_of(one.target))) is not None
        and below < above
    ]
    assert not up


def test_no_import_circle():
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for one in imports():
        # `from package import module` runs the package first; its own lazy names do not count.
        if one.eager and not one.source.startswith(one.target + "."):
            graph[one.source].add(one.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_picture_is_of_this_code():
    assert PICTURE.read_text(encoding="utf-8") == draw(), "run scripts/imports.py"


def test_no_file_is_too_long_to_read():
    long = {name: lines for name, file in modules().items() if (lines := file.read_text().count("\n")) > LINES}
    assert not long


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield name, node


def test_no_function_takes_too_much():
    def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        return any(
            "typer." in ast.unparse(one.annotation or node) or "options." in ast.unparse(one) for one in node.args.args
        )

    wide = {
        f"{name}.{node.name}": count
        for name, node in functions()
        if (count := len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])) > PARAMETERS
        and not (COMMAND.match(name) and is_command(node))
    }
    assert not wide.keys() - RELEASED, wide


@pytest.mark.bubblewrap
@pytest.mark.slow
def test_names_of_the_users_own_project_are_free(tmp_path):
    """`judge_sync` in a folder that has a `prompts` package, a `sandbox.py` and an `rpe.py` of its own."""
    (tmp_path / "prompts").mkdir()
    for name in ("prompts/__init__.py", "sandbox.py", "rpe.py", "types_.py", "engines.py"):
        (tmp_path / name).write_text("raise RuntimeError('the user\\'s own module was imported')\n")
    (tmp_path / "run.py").write_text(
        "import genprm\n"
        "judged = genprm.judge_sync('Ann had 2 and 3. How many?', ['She had 2+3 = 6.'], sandbox='bubblewrap')\n"
        "print(judged.first_error, judged.steps[0].chains[0].code[0].status)\n"
    )
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.split() == ["0", "ok"], done.stdout + done.stderr


def test_old_names_are_not_imported():
    old = re.compile(r"^\s*(from|import) (sandbox|rpe|prompts)\b", re.MULTILINE)
    found = [
        str(file.relative_to(ROOT))
        for folder in ("genprm", "rpe", "sandbox", "prompts", "tests", "benchmarks", "recipes", "scripts")
        for file in (ROOT / folder).rglob("*.py")
        if old.search(file.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize("name", ["load_prm", "judge", "critique"])
def test_a_lazy_import_that_fails_names_its_cause(name):
    """An AttributeError inside the module must not become "cannot import name"."""
    program = (
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name in ('genprm.prms.load', 'genprm.api', 'genprm.search.refine'): [].nothing_like_it\n"
        "sys.meta_path.insert(0, Broken())\n"
        f"from genprm import {name}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'list' object has no attribute 'nothing_like_it'" in done.stderr.splitlines()[-1]


def test_a_name_that_is_not_there():
    import genprm

    with pytest.raises(AttributeError, match="module 'genprm' has no attribute 'nothing'"):
        genprm.nothing  # noqa: B018


def test_importing_genprm_is_quick_and_needs_no_framework():
    program = (
        "import sys, genprm, genprm.cli.main, genprm.prms.load\n"
        "print({'torch', 'transformers', 'vllm', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_python_m_genprm():
    done = subprocess.run(
        [sys.executable, "-m", "genprm", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    import genprm

    assert done.stdout.split() == ["genprm", genprm.__version__]
