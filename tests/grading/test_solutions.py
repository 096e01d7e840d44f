import pytest
import pytest_asyncio

from genprm.grading.answers import AnswerChecker, Outcome
from genprm.grading.solutions import AnswerGrader, plain


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("12", "12"),
        (" 12.0 ", "12"),
        ("\\$1,200.", "1200"),
        ("1,20", "1,20"),
        ("$x + 1$", "x+1"),
        ("1e9999999", "1e9999999"),
        ("NaN", "NaN"),
    ],
)
def test_plain(answer, expected):
    assert plain(answer) == expected


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def grader():
    async with AnswerChecker(workers=1) as checker:
        yield AnswerGrader(checker)


def boxed(*answers):
    return [f"So it is \\boxed{{{answer}}}." for answer in answers]


async def grades(grader, reference, solutions):
    return [(one.answer, one.correct) for one in await grader.grade(reference, solutions)]


async def test_numbers_need_no_algebra(grader):
    found = await grades(grader, "24", [*boxed("24", "24.0", "\\$24", "25"), "no answer", "\\boxed{}"])
    assert found == [("24", True), ("24", True), ("24", True), ("25", False), (None, False), (None, False)]


async def test_equal_expressions_form_one_group(grader):
    found = await grades(grader, "\\frac{1}{2}", boxed("0.5", "\\frac{1}{2}", "\\dfrac12", "\\frac{1}{3}"))
    assert [correct for _, correct in found] == [True, True, True, False]
    assert len({answer for answer, _ in found}) == 2


async def test_without_a_reference_there_are_groups_and_no_marks(grader):
    assert await grades(grader, None, boxed("3", "3.0", "4")) == [("3", None), ("3", None), ("4", None)]


async def test_a_comparison_that_did_not_end_is_no_wrong_answer():
    class Slow(AnswerChecker):
        async def check(self, gold, answer):
            return Outcome.TIMEOUT

    assert await grades(AnswerGrader(Slow()), "x+1", boxed("1+x", "x+1")) == [("1+x", None), ("x+1", True)]
