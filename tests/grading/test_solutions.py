import pytest
import pytest_asyncio

from genprm.grading.answers import AnswerChecker, Outcome
from genprm.grading.solutions import AnswerGrader


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
            return Outcome.EQUAL if gold == answer else Outcome.TIMEOUT

    assert await grades(AnswerGrader(Slow()), "x+1", boxed("1+x", "x+1")) == [("1+x", None), ("x+1", True)]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
async def test_each_answer_is_graded_by_itself(grader, order):
    """A set is neither the tuple nor the tuple the other way round, whichever answer comes first."""
    answers = ["(1,2)", "\\{1,2\\}", "(2,1)"]
    found = await grades(grader, "(1,2)", boxed(*(answers[index] for index in order)))
    assert [correct for _, correct in found] == [index == 0 for index in order]
    assert len({group for group, _ in found}) == 3


async def test_a_group_never_holds_answers_that_differ(grader):
    percent = await grader.group(["50", "50\\%", "0.5"])
    assert percent[0] == percent[1] != percent[2]
    percent = await grader.group(["50\\%", "0.5", "50"])
    assert percent[0] == percent[1] != percent[2]


async def test_votes_for_one_number_in_another_base_are_not_split(grader):
    found = await grades(grader, "52_8", boxed("52_8", "52_{8}", "52_{\\text{eight}}", "528", "52", "52_7"))
    assert [correct for _, correct in found] == [True, True, True, False, False, False]
    assert len({group for group, _ in found[:3]}) == 1
    assert len({group for group, _ in found}) == 4


async def test_stored_answers_are_grouped_without_a_reference(grader):
    assert await grader.group(["1/2", "\\frac{1}{2}", " ", None, "0.5", "2"]) == ["1/2", "1/2", None, None, "1/2", "2"]
