"""The pages in a real browser."""

import subprocess
from dataclasses import replace
from html import unescape

import pytest

from genprm.report.data_page import write_label_page, write_synthesis_page
from genprm.rpe.budget import State
from genprm.rpe.rows import Drop, LabelRow, Message, Samples, SolutionRow, StepLabelRow, SynthesisRow, ValueRow
from genprm.runs.rows import verify_row
from genprm.types import Judgement, StepJudgement, Verdict
from tests.conftest import chromium
from tests.judges import ArithmeticJudge, row
from tests.report.test_page import HOSTILE, INFO, written

pytestmark = [pytest.mark.slow, pytest.mark.browser]
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
MATH = (
    "So $\\frac{1}{2}$ and \\(x^2\\), but it costs $5 and $6, and $\\nothing{like it}$ stays.\n"
    "\\[\\sum_i i\\]\nEnd \\boxed{7}."
)


@pytest.fixture(scope="module")
def dom(tmp_path_factory):
    program = chromium()
    home = tmp_path_factory.mktemp("browser")

    def dump(path, size="1280,900", anchor=""):
        command = [program, *FLAGS.split(), f"--user-data-dir={home}", f"--window-size={size}", "--dump-dom"]
        command += ["--enable-logging=stderr", "--virtual-time-budget=2000", f"{path.as_uri()}{anchor}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        problems = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert not problems
        shown = done.stdout
        return shown[shown.index("<header") : shown.index("<noscript")]

    return dump


async def test_formulas_are_rendered_and_text_stays_text(tmp_path, dom):
    judge = ArithmeticJudge()
    steps = ["1 = 1", f"{MATH} {HOSTILE}", "2 = 3"]
    judged = verify_row(row(0, *steps, label=2), await judge.judge("p", steps), seconds=1.0)
    written(tmp_path / "page.html", [judged.model_copy(update={"problem": MATH})])
    shown = dom(tmp_path / "page.html")
    assert shown.count('class="katex-display"') == 3  # in the problem, the step and the rationale
    assert shown.count('<span class="katex">') == 12
    assert "mfrac" in shown
    assert "it costs $5 and $6, and $\\nothing{like it}$ stays." in unescape(shown)
    assert "<img" not in shown
    assert "alert(1)" in shown  # as text
    assert shown.count("labelled first error") == 1
    assert 'class="step first labelled"' in shown or "step labelled" in shown
    assert '<span class="number">1</span>' in shown
    assert "label: error at step 3" in shown
    assert "Scores of the steps" in shown


def test_an_undecided_row_says_why_and_the_whole_has_its_score(tmp_path, dom):
    silent = StepJudgement(None, None, None, (), "no chain labels this step")
    whole = StepJudgement(0.93, 2.6, Verdict.YES, ())
    undecided = verify_row(row(0, "a", "b"), Judgement((silent, silent)), seconds=1.0)
    thought = replace(row(1, "a", "b"), thoughts="or is it 3?")
    decided = verify_row(thought, Judgement((silent, silent), solution=whole), seconds=1.0)
    written(tmp_path / "page.html", [undecided, decided])
    shown = dom(tmp_path / "page.html")
    assert "Undecided: a step has no score: no chain labels this step" in shown
    assert "1: a step has no score: no chain labels this step" in shown
    assert shown.count('<i class="right">') == 1  # in the list, for the whole
    shown = dom(tmp_path / "page.html", anchor="#row-1")
    assert "The solution as a whole" in shown
    assert "Yes 0.93" in shown
    assert "The model's thoughts, not judged" in shown


async def test_on_a_phone_the_list_folds_away(tmp_path, dom):
    judge = ArithmeticJudge()
    judged = verify_row(row(0, "1 = 1"), await judge.judge("p", ["1 = 1"]), seconds=1.0)
    written(tmp_path / "page.html", [judged])
    assert 'aria-expanded="false"' in dom(tmp_path / "page.html", "400,800")
    assert 'aria-expanded="true"' in dom(tmp_path / "page.html", "1280,800")


def test_a_page_of_labels(tmp_path, dom):
    solution = SolutionRow(
        steps=["$x$ is 1", HOSTILE],
        outcome="different",
        copies=3,
        values=[ValueRow(successes=4, rollouts=8), ValueRow(successes=0, rollouts=1, exact=True)],
        labels=[
            StepLabelRow(label=True, state=next(iter(State)), progress=0.9),
            StepLabelRow(label=False, state=next(iter(State))),
        ],
        first_error=1,
    )
    kept = LabelRow(
        key="a", problem=MATH, answer="7", samples=Samples(right=3, wrong=1), solutions=[solution], rollouts=9
    )
    dropped = LabelRow(key="b", problem="q", answer="7", samples=Samples(wrong=4), dropped="never solved")
    info = INFO.model_copy(update={"command": "label"})
    assert write_label_page(tmp_path / "l.html", info=info, rows=[kept, dropped]) == 0
    shown = dom(tmp_path / "l.html")
    assert "first wrong step: 2, sampled 3 times" in shown
    assert "4 of 8 · progress 0.90" in shown
    assert "dropped: never solved" in shown
    assert "<img" not in shown
    assert "Where the first wrong step is" in shown
    assert "No labels: never solved." in dom(tmp_path / "l.html", anchor="#row-1")


def test_a_page_of_critiques(tmp_path, dom):
    one = SynthesisRow(
        key="a",
        id="a-0",
        problem=MATH,
        steps=["2 = 2", "1 = 2"],
        label=1,
        first_error=0,
        kept=False,
        dropped=Drop.DISAGREES,
        teacher="t",
        messages=[Message(role="assistant", content="<analyze>\nlook: $x^2$\n</analyze>\n```python\nprint(1)\n```")],
        snippets={"ok": 2},
    )
    info = INFO.model_copy(update={"command": "synthesize"})
    assert write_synthesis_page(tmp_path / "s.html", info=info, rows=[one]) == 0
    shown = dom(tmp_path / "s.html")
    assert "Dropped: the teacher names another first wrong step." in shown
    assert "by rollouts: step 2 · by the teacher: step 1 · snippets: 2 ok" in shown
    assert "Rationale" in shown
    assert shown.count('<span class="katex">') == 5
