r"""The table behind docs/answers.md: pairs of answers, and whether they are equal.

Each pair is compared in both orders.
"""

import asyncio
from pathlib import Path

import pytest
import pytest_asyncio

from genprm.grading.answers import AnswerChecker, Outcome
from genprm.grading.normal import Kind, decided, decimals, normalised

PAIRS = [
    (line.partition(" # ")[0].split(" == " if " == " in line else " != "), " == " in line)
    for line in (Path(__file__).parent / "answers.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outcomes():
    async with AnswerChecker(limit_s=20) as checker:
        both = [pair for (one, other), _ in PAIRS for pair in ((one, other), (other, one))]
        return dict(zip(both, await asyncio.gather(*(checker.check(*pair) for pair in both)), strict=True))


@pytest.mark.parametrize(("pair", "equal"), PAIRS, ids=[" ~ ".join(pair) for pair, _ in PAIRS])
async def test_pairs(outcomes, pair, equal):
    one, other = pair
    found = [outcomes[one, other], outcomes[other, one]]
    assert [outcome is Outcome.EQUAL for outcome in found] == [equal, equal]
    assert all(outcome.known for outcome in found)


def test_the_table_is_large_and_names_no_pair_twice():
    assert len(PAIRS) >= 115
    assert len({tuple(pair) for pair, _ in PAIRS}) == len(PAIRS)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("12", "12"),
        (" 12.0 ", "12"),
        ("\\$1,200.", "1200"),
        ("$x + 1$", "x+1"),
        ("1e9999999", "1\\times 10^{9999999}"),
        ("NaN", "NaN"),
        ("-0.0", "0"),
        ("12345678901234567890123456789012345", "12345678901234567890123456789012345"),
        ("1_000", "1_000"),
    ],
)
def test_normal_text(answer, text):
    assert normalised(answer).text == text


def test_kinds():
    assert normalised("(0,9) \\cup (9,36)").kind is Kind.OTHER
    assert normalised("52_8").kind is Kind.BASED
    assert normalised("x_8").kind is Kind.OTHER
    assert decided(normalised("\\frac{1}{2}"), normalised("0.5")) is None


def test_small_decimals_are_compared_by_six_significant_digits():
    assert decimals("\\frac{1}{3}", "0.333333") == 6
    assert decimals("\\frac{1}{3}", "0.00000012") == 12
    assert decimals("10^{-9}") == 15
