from hypothesis import example, given
from hypothesis import strategies as st

from genprm.data.steps import join_steps, split_steps


def test_paragraphs():
    assert split_steps("  First.\nStill first.\n\n \nSecond.\n") == ["First.\nStill first.", "Second."]


def test_one_block_is_split_into_lines():
    assert split_steps("48 / 2 = 24\n48 + 24 = 72\n#### 72") == ["48 / 2 = 24", "48 + 24 = 72", "#### 72"]


def test_labels_keep_the_paragraphs_of_a_step_together():
    solution = "Let us see.\n\nStep 1: one.\n\nmore of it\nStep 2: two.\n\n**Step 3.** three"
    assert split_steps(solution) == ["Let us see.", "Step 1: one.\n\nmore of it", "Step 2: two.", "**Step 3.** three"]


def test_headers():
    solution = "## Step 1\nHalve it.\n\nSo 24.\n\n## Step 2: add\n72\n\n### **Step 3** then say it\nDone."
    assert split_steps(solution) == [
        "## Step 1\nHalve it.\n\nSo 24.",
        "## Step 2: add\n72",
        "### **Step 3** then say it\nDone.",
    ]


def test_a_sentence_about_a_step_is_no_label():
    assert split_steps("Step 1: halve.\nStep 1 gives 24.\nStep 2: add.\nStep 1: was right.") == [
        "Step 1: halve.\nStep 1 gives 24.",
        "Step 2: add.\nStep 1: was right.",
    ]


def test_one_label_alone_does_not_decide():
    assert split_steps("Step 1: halve.\n\nThen add.") == ["Step 1: halve.", "Then add."]


def test_fenced_code_stays_whole():
    code = "```python\nx = 1\n\nStep 9: not a label\n~~~\n\nprint(x)\n```"
    assert split_steps(f"Compute:\n\n{code}\n\nSo 1.") == ["Compute:", code, "So 1."]
    assert split_steps(f"Step 1: run\n{code}\nStep 2: read") == [f"Step 1: run\n{code}", "Step 2: read"]
    assert split_steps(f"Run\n{code}\nRead") == ["Run", code, "Read"]


def test_longer_fence_holds_a_shorter_one():
    code = "````\n```\n\n```\n\n````"
    assert split_steps(f"a\n\n{code}\n\nb") == ["a", code, "b"]


def test_unclosed_fence_runs_to_the_end():
    assert split_steps("a\n\n```python\nx = 1\n\ny = 2") == ["a", "```python\nx = 1\n\ny = 2"]


def test_displayed_formula_stays_whole_among_lines():
    formula = "\\[\nx = 1\n\\]"
    assert split_steps(f"a\n{formula}\nb\n$$\ny\n$$\nc") == ["a", formula, "b", "$$\ny\n$$", "c"]


def test_blank():
    assert split_steps(" \n\n\t") == []


PIECES = st.sampled_from(
    [
        "Step 1: a",
        "Step 2. b",
        "## Step 3",
        "**Step 4** c",
        "```",
        "```python",
        "````",
        "~~~",
        "",
        " ",
        "text",
        "x = 1",
        "$$",
        *["\\[", "\\]", "\\begin{align}", "\\end{align}", "Step 1 says", "    indented", "\x0b", "\x85"],
    ]
)
SOLUTIONS = st.lists(PIECES | st.text(max_size=8), max_size=14).map("\n".join)


@given(SOLUTIONS)
@example("a\n\\[\nb\n\n\\]")
def test_nothing_is_lost_and_no_step_is_blank(solution: str):
    steps = split_steps(solution)
    assert all(step == step.strip() and step for step in steps)
    assert "".join(join_steps(steps).split()) == "".join(solution.split())


@given(SOLUTIONS)
def test_splitting_what_was_joined_gives_the_same_steps(solution: str):
    steps = split_steps(solution)
    assert split_steps(join_steps(steps)) == steps
