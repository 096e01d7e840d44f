"""Rationales with the right label for a wrong reason."""

import pytest

from genprm.rpe.consensus import drop_reason
from genprm.rpe.meta_check import contradicts, idle
from genprm.rpe.rationales import Review, StepCritique
from genprm.rpe.rows import Drop


def block(source: str, output: str) -> str:
    return f"```python\n{source}\n```\n[Code Output]\n\n```\n{output}\n```\nSo it is."


@pytest.mark.parametrize(
    ("source", "output", "correct", "expected"),
    [
        ("print(3 + 4 == 8)", "False", True, True),
        ("print(3 + 4 == 8)", "False", False, False),
        ("print(3 + 4, 3 + 4 == 7)", "7 True", True, False),
        # Correct calculations may answer the wrong question.
        ("print(3 + 4 == 7)", "True", False, False),
        ("import math\nprint(math.isclose(0.1 + 0.2, 0.4))", "False", True, True),
        ("assert 3 + 4 == 8", "Code execute Error: AssertionError", True, True),
        # The step may well say that 9 is not prime.
        ("from sympy import isprime\nprint(isprime(9), 3 * 3 == 9)", "False True", True, False),
        ("print(5 != 5)", "False", True, False),
        ("print(not 1 == 1)", "False", True, False),
        ("x = 3 + 4\nprint('It is incorrect' if x != 8 else 'It is correct')", "It is incorrect", True, True),
        ("print('The step is correct')", "The step is correct", False, True),
        ("print('The step is incorrect')", "The step is incorrect", False, False),
        ("print('Is it correct? ', 'wrong')", "Is it correct? wrong", True, False),
        ("print(1 == ", "Code execute Error: SyntaxError: '(' was never closed", True, False),
        ("x = 7", "", True, False),
    ],
)  # fmt: skip
def test_an_output_that_contradicts_the_verdict(source: str, output: str, correct: bool, expected: bool) -> None:
    assert contradicts(block(source, output), correct=correct) is expected


def test_a_later_block_corrects_an_earlier_one() -> None:
    both = block("print(3 + 4 == 8)", "False") + "\nI misread it.\n" + block("print(3 + 4 == 7)", "True")
    assert not contradicts(both, correct=True)
    assert not contradicts("```python\nprint(1 == 2)\n```\n", correct=True)


@pytest.mark.parametrize(
    ("step", "source", "expected"),
    [
        ("There are 3 + 4 = 7 pens.", "print(3 + 4 == 7)", False),
        ("There are 3 + 4 = 7 pens.", "print('looks right')", True),
        ("There are 3 + 4 = 7 pens.", "print(7)", True),
        ("There are 3 + 4 = 7 pens.", "x = 100 * 2\nprint(x)", True),
        ("So 1,200 / 4 = 300.", "print(1200 / 4)", False),
        (r"So \frac{3}{4} of 20 is 15.", "from sympy import Rational\nprint(Rational(3, 4) * 20)", False),
        ("Then 3x + 1 = 10.", "from sympy import solve, sympify\nprint(solve(sympify('3*x + 1 - 10')))", False),
        # The step has no calculation, so code need not compute anything.
        ("Let us first restate the problem.", "print('nothing to check')", False),
        ("The answer is 7 apples.", "print('nothing to check')", False),
        ("There are 3 + 4 = 7 pens.", "print(3 +", True),
    ],
)
def test_code_that_computes_nothing_of_the_step(step: str, source: str, expected: bool) -> None:
    assert idle(step, block(source, "1")) is expected


def test_both_are_dropped_with_their_reason_and_can_be_kept() -> None:
    steps = ["3 + 4 = 7", "7 * 2 = 14"]
    good = StepCritique("a", block("print(3 + 4 == 7)", "True"))
    idling = StepCritique("a", block("print('fine')", "fine"))
    false = StepCritique("a", block("print(7 * 2 == 15)", "False"))
    assert drop_reason(-1, steps, Review((good, idling), -1, "")) is Drop.IDLE_CODE
    assert drop_reason(-1, steps, Review((good, false), -1, "")) is Drop.CONTRADICTS
    assert drop_reason(1, steps, Review((good, false), 1, "")) is None
    assert drop_reason(0, steps, Review((StepCritique("a", block("print(3 + 4 == 8)", "False")), None), 0, "")) is None
    assert drop_reason(-1, steps, Review((good, false), -1, ""), meta_check=False) is None
