"""Tests of programs, run in a real sandbox."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm.data.inputs import BadRow, read_rows
from genprm.grading.code_tests import CodeTests, candidate_blocks
from genprm.sandbox import Limits, open_sandbox
from genprm.types import ChainFinish, Judgement, StepJudgement, Verdict
from tests.judges import ArithmeticJudge, row

pytestmark = pytest.mark.bubblewrap

GOOD = "The code:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds."
BAD = GOOD.replace("a + b", "a - b")
TESTS = "assert add(2, 3) == 5, 'wrong sum'\nassert add(0, 0) == 0"


@pytest.fixture
def tests_in_a_box():
    return CodeTests(lambda: open_sandbox("bubblewrap", limits=Limits(wall_s=1.0)))


def judgement(*scores, **options):
    steps = tuple(StepJudgement(score, None, Verdict.YES, ()) for score in scores)
    return Judgement(steps, **options)


async def test_a_candidate_that_fails_is_wrong_and_one_that_passes_is_left_to_the_model(tests_in_a_box):
    before = judgement(0.9, 0.8, 0.7, solution=StepJudgement(0.9, 2.2, Verdict.YES, ()))
    async with tests_in_a_box as box:
        passed = await box.check(before, ["First.", GOOD, "Done."], TESTS)
        failed = await box.check(before, ["First.", BAD, "Done."], TESTS)
    assert passed.scores == before.scores
    assert passed.solution == before.solution
    (chain,) = passed.steps[1].chains
    assert (chain.finish, chain.score, [run.status for run in chain.code]) == (ChainFinish.TESTS, 1.0, ["ok", "ok"])
    assert failed.scores == [0.9, 0.0, 0.7]
    assert failed.first_error == 1
    assert failed.solution.score == 0.0
    assert failed.steps[1].reason == "The tests fail: AssertionError: wrong sum"
    assert failed.steps[1].chains[0].code[0].source == "def add(a, b):\n    return a - b\n"


async def test_blocks_run_in_order_in_a_session_of_their_own(tests_in_a_box):
    helper = "```python\ndef twice(x):\n    return 2 * x\n```"
    main = "~~~\ndef four(x):\n    return twice(twice(x))\n~~~"
    draft = "```py\nraise SystemExit\n```"
    async with tests_in_a_box as box:
        passed = await box.check(judgement(0.9, 0.9, 0.9), [draft, helper, main], "assert four(1) == 4")
        alone = await box.check(judgement(0.9), [main], "assert four(1) == 4")
    assert passed.first_error == -1
    assert "NameError" in alone.steps[0].reason


async def test_a_candidate_that_hangs_or_leaves_early_does_not_pass(tests_in_a_box):
    hangs = "```python\ndef f():\n    while True: pass\n```"
    leaves = "```python\nimport sys\ndef f():\n    sys.exit(0)\n```"
    async with tests_in_a_box as box:
        results = [await box.check(judgement(0.9), [code], "f()") for code in (hangs, leaves)]
    assert [result.first_error for result in results] == [0, 0]


async def test_solutions_without_code_and_critics(tests_in_a_box):
    async with tests_in_a_box as box:
        before = judgement(0.9)
        assert await box.check(before, ["```sql\nSELECT 1\n```"], TESTS) is before
        assert (await box.check(judgement(0.9, 0.9, first_error_vote=-1), ["a", BAD], TESTS)).first_error == 1
        assert (await box.check(judgement(0.9, 0.9, first_error_vote=0), ["a", BAD], TESTS)).first_error == 0


def test_blocks():
    text = "```python\nx = '''\n~~~\n'''\n```\n\n```text\nno\n```\n\n````\ny\n```\nz\n````\n```python\nopen"
    assert [block.source for block in candidate_blocks(["a", text])] == ["x = '''\n~~~\n'''\n", "y\n```\nz\n", "open"]
    assert {block.step for block in candidate_blocks(["a", text])} == {1}


@given(st.lists(st.text(alphabet="`~ab\n ", max_size=30), max_size=3))
def test_any_text_has_blocks_or_none(steps):
    assert all(0 <= block.step < len(steps) for block in candidate_blocks(steps))


async def test_in_a_run(tmp_path, tests_in_a_box):
    from dataclasses import replace

    from genprm.runs.folder import open_run
    from genprm.runs.rows import VerifyRow
    from genprm.runs.verify import verify

    rows = [replace(row(0, BAD), tests=TESTS), row(1, BAD)]
    with open_run(tmp_path / "run", command="verify", config={}) as run:
        async with tests_in_a_box as box:
            await verify(rows, ArithmeticJudge(), run, concurrency=1, code_tests=box)
        found = list(run.rows(VerifyRow))
    assert found[0].first_error == 0
    assert found[0].steps[0].chains[-1].finish is ChainFinish.TESTS
    assert found[0].steps[0].log_odds is None
    assert found[1].first_error is None


def test_rows_with_tests(tmp_path):
    path = tmp_path / "code.jsonl"
    rows = [
        {"tests": "assert f()"},
        {"tests": ["assert f()", "assert g()"]},
        {"tests": 3},
        {"tests": ""},
        {"tests": [1]},
    ]
    path.write_text("".join(json.dumps({"problem": "p", "solution": GOOD, **one}) + "\n" for one in rows))
    text, listed, *bad = read_rows([path])
    assert text.tests == "assert f()"
    assert listed.tests == "assert f()\nassert g()"
    assert text.steps == (GOOD,) or GOOD.partition("\n")[0] in text.steps[0]
    assert all(isinstance(one, BadRow) and '"tests" must be Python' in one.reason for one in bad)


def test_the_examples_of_other_domains():
    from pathlib import Path

    examples = Path(__file__).parents[2] / "examples"
    code = list(read_rows([examples / "code.jsonl"]))
    science = list(read_rows([examples / "science.jsonl"]))
    assert all(not isinstance(one, BadRow) and one.label is not None for one in (*code, *science))
    assert all(one.tests and candidate_blocks(one.steps) for one in code)
    assert {one.label == -1 for one in code} == {one.label == -1 for one in science} == {True, False}


async def test_the_example_programs_pass_and_fail_as_labelled(tests_in_a_box):
    from pathlib import Path

    async with tests_in_a_box as box:
        for one in read_rows([Path(__file__).parents[2] / "examples" / "code.jsonl"]):
            after = await box.check(judgement(*[0.9] * len(one.steps)), one.steps, one.tests)
            assert after.first_error == one.label, one.id
