import pytest

from genprm.data.steps import split_steps
from genprm.prms.step_labels import LabelKind, align_labels, unlabelled

CORRECT, INCORRECT, IMPLIED, MISSING = LabelKind


def kinds(text, steps):
    return [label.kind for label in align_labels(text, steps)]


def test_labels_of_a_plain_chain():
    text = (
        "Step 1: 2 + 2 is 4. The step is \\boxed{correct}\n\n"
        "Step 2: With the 4 of Step 1 we get 9. The step is \\boxed{incorrect}\n"
    )
    first, second = align_labels(text, 2)
    assert (first.kind, second.kind) == (CORRECT, INCORRECT)
    assert first.text == "Step 1: 2 + 2 is 4. The step is \\boxed{correct}"
    assert text[second.at :].startswith("incorrect}")


@pytest.mark.parametrize(
    "box",
    [
        r"\boxed{incorrect}",
        r"\boxed{\text{incorrect}}",
        r"\boxed{ \textbf{ Incorrect } }",
        r"$\boxed{\mathrm{incorrect}}$",
        r"\boxed {incorrect}",
    ],
)
def test_dressed_boxes(box):
    assert kinds(f"Step 1: hm. The step is {box}.", 1) == [INCORRECT]


def test_the_choice_in_an_echoed_instruction_is_no_label():
    assert kinds("I write \\boxed{correct/incorrect}. Step 1: fine \\boxed{correct}", 1) == [CORRECT]


def test_a_repeated_list_counts_once():
    inline = "Step 1: yes \\boxed{correct}\nStep 2: yes \\boxed{correct}\nStep 3: no \\boxed{incorrect}\n"
    final = "Final Output:\n- Step 1: \\boxed{correct}\n- Step 2: \\boxed{correct}\n- Step 3: \\boxed{incorrect}\n"
    assert kinds(inline + final, 3) == [CORRECT, CORRECT, INCORRECT]
    only_at_the_end = "Step 1: I check it.\nStep 2: And it.\nStep 3: Hm.\n" + final
    assert kinds(only_at_the_end, 3) == [CORRECT, CORRECT, INCORRECT]
    assert "I check it." not in align_labels(only_at_the_end, 3)[2].text


@pytest.mark.parametrize(
    "line", ["**Step {}:** {}", "### Step {}\n{}", "* Step {}. {}", "Step {} is {}", "- Step {} – {}"]
)
def test_headings(line):
    boxes = ["\\boxed{correct}", "\\boxed{incorrect}"]
    text = "\n".join(line.format(number, box) for number, box in enumerate(boxes, start=1))
    assert kinds(text, 2) == [CORRECT, INCORRECT]


def test_headings_within_one_line():
    text = "Let's verify step by step: Step 1: fine \\boxed{correct} Step 2: bad. The step is \\boxed{incorrect}"
    assert kinds(text, 2) == [CORRECT, INCORRECT]


@pytest.mark.parametrize(
    "text",
    [
        "Step 1 is \\boxed{correct}, Step 2 is \\boxed{incorrect}",
        "Step 1 is $\\boxed{correct}$, and step 2 is $\\boxed{incorrect}$.",
        "Step 1: \\boxed{correct}, Step 2: \\boxed{incorrect}",
        "Step 1: \\boxed{correct}; Step 2: it adds wrongly. The step is \\boxed{incorrect}",
        "Step 1 is \\boxed{correct} and step 2 is \\boxed{incorrect}",
        "Step 1 is \\boxed{correct}, but Step 2 was \\boxed{incorrect}",
    ],
)
def test_labels_in_one_sentence(text):
    assert kinds(text, 2) == [CORRECT, INCORRECT]


def test_a_step_that_another_relies_on_is_no_heading():
    text = "Step 1: fine \\boxed{correct}\nStep 2: The way it relies on step 1 is \\boxed{incorrect}"
    assert kinds(text, 2) == [CORRECT, INCORRECT]
    text = "Step 1: fine \\boxed{correct}\nStep 2: Given 4, step 1 and the rule, it is \\boxed{incorrect}"
    assert kinds(text, 2) == [CORRECT, INCORRECT]


def test_a_mentioned_step_is_no_heading():
    text = "Step 1: ok \\boxed{correct}\nStep 2: It uses\nstep 1 in the sum, as step 1 allows. \\boxed{incorrect}"
    assert kinds(text, 2) == [CORRECT, INCORRECT]


def test_the_last_judgement_of_a_step_counts():
    text = "Step 1: bad? \\boxed{incorrect}\nWait.\nStep 1: no, it is fine. \\boxed{correct}\nStep 2: \\boxed{correct}"
    assert kinds(text, 2) == [CORRECT, CORRECT]


def test_what_follows_the_first_error_is_implied_and_what_is_left_out_before_it_is_missing():
    assert kinds("Step 2: \\boxed{incorrect}", 4) == [MISSING, INCORRECT, IMPLIED, IMPLIED]
    assert [label.value for label in align_labels("Step 2: \\boxed{incorrect}", 4)] == [None, 0, 0, 0]
    assert kinds("Step 1: \\boxed{correct}", 3) == [CORRECT, MISSING, MISSING]


def test_no_labels_at_all():
    assert kinds("I think this is right.", 2) == [MISSING, MISSING]
    assert kinds("", 1) == [MISSING]


def test_labels_beyond_the_steps_are_dropped():
    text = "".join(f"Step {number}: \\boxed{{correct}}\n" for number in range(1, 9))
    assert len(align_labels(text, 3)) == 3
    without_headings = "\\boxed{correct} \\boxed{incorrect} \\boxed{correct} \\boxed{correct}"
    assert kinds(without_headings, 3) == [CORRECT, INCORRECT, CORRECT]


def test_a_label_of_the_whole_solution_is_not_the_last_steps():
    text = "Step 1: \\boxed{correct}\nStep 2: fine, \\boxed{correct}\n\nOverall, the solution is \\boxed{incorrect}."
    assert kinds(text, 2) == [CORRECT, CORRECT]


def test_twelve_steps():
    text = "".join(f"Step {number}: The step is \\boxed{{correct}}\n" for number in range(1, 13))
    assert kinds(text, 12) == [CORRECT] * 12
    assert kinds(text.replace("Step 12: The step is \\boxed{correct}", "Step 12: \\boxed{incorrect}"), 12)[10:] == [
        CORRECT,
        INCORRECT,
    ]


STEPS = ["There are 6*14 = 84 plants.", "Then 84 - 19 = 65 are left.", "That gives 65*3 = 195 kg."]
A, B, C = STEPS
LAYOUTS = [
    f"Step 1: {A}\nStep 2: {B}\nStep 3: {C}",
    f"Step 1: {A}\n\nStep 2: {B}\n\nStep 3: {C}\n",
    f"  Step 1: {A}  \n  Step 2: {B}\t\n  Step 3: {C}",
    f"Step 1:\n{A}\n\nStep 2:\n{B}\n\nStep 3:\n{C}",
    f"Step 1. {A}\r\nStep 2. {B}\r\nStep 3. {C}\r\n",
    f"step 1) {A}\nstep 2) {B}\nstep 3) {C}",
    f"STEP 1 - {A}\nSTEP 2 - {B}\nSTEP 3 - {C}",
    f"Step 1 – {A}\nStep 2 – {B}\nStep 3 – {C}",
    f"**Step 1:** {A}\n\n**Step 2:** {B}\n\n**Step 3:** {C}",
    f"**Step 1**: {A}\n**Step 2**: {B}\n**Step 3**: {C}",
    f"__Step 1.__ {A}\n__Step 2.__ {B}\n__Step 3.__ {C}",
    f"## Step 1: {A}\n## Step 2: {B}\n## Step 3: {C}",
    f"### Step 1\n{A}\n\n### Step 2\n{B}\n\n### Step 3\n{C}",
    f"{A}\n\n{B}\n\n{C}",
    f"\n\n{A}\n\n\n{B}\n   \n{C}\n\n",
    f"{A}\n{B}\n{C}",
    f"{A}\r\n\r\n{B}\r\n\r\n{C}",
    f"1. {A}\n2. {B}\n3. {C}",
    f"(1) {A}\n\n(2) {B}\n\n(3) {C}",
    f"1) {A}\n2) {B}\n3) {C}",
    f"\ufeffStep 1:\u00a0{A}\u200b\nStep 2:\u00a0{B}\nStep 3:\u00a0{C}",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_solution_in_many_layouts_is_one_solution(layout):
    assert unlabelled(split_steps(layout)) == STEPS


def test_what_only_looks_like_a_label_stays():
    kept = ["Step 12 of the proof needs care.", "2. 5 is a typo for 2.5", "Stepping back: x = 1"]
    assert unlabelled(kept) == kept
    assert unlabelled(["**Step 1: The sum** is 4", "Step 2:"]) == ["**The sum** is 4", "Step 2:"]
    code = "Step 1:\n```python\ndef f():\n    return 1\n```"
    assert unlabelled([code]) == ["```python\ndef f():\n    return 1\n```"]
