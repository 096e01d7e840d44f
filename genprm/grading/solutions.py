r"""Reads the final answers of solutions and groups equal ones.

Answers that are numbers are compared as numbers, anything else by math-verify in processes that can be killed. Which
answers form one group for a vote is found without the reference answer, so that nothing of it leaks into votes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from genprm.grading.answers import AnswerChecker, Outcome, boxed_answer
from genprm.grading.grades import Grade

_SPACE = re.compile(r"\\[,!;: ]|\s+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MOST_GROUPS = 32
"""Maximum number of groups that an answer is compared with; later answers form groups of their own."""


def plain(answer: str) -> str:
    """An answer without what does not change it: spaces, dollar signs, a final full stop, `12.0` for `12`."""
    text = _SPACE.sub("", answer.replace("\\$", "").replace("$", "")).rstrip(".")
    number = _number(text)
    return text if number is None else format(number.normalize(), "f")


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(_THOUSANDS.sub("", text))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < 100 else None


class AnswerGrader:
    """Compares answers with `genprm.grading.answers`.

    Args:
        checker: stays open.
    """

    def __init__(self, checker: AnswerChecker) -> None:
        self._checker = checker

    async def grade(self, reference: str | None, solutions: Sequence[str]) -> list[Grade]:
        """See `genprm.search.run.Grader`.

        Raises:
            AnswerError: math-verify cannot be started.
        """
        answers = [None if (found := boxed_answer(solution)) is None else plain(found) for solution in solutions]
        groups: dict[str, str] = {}
        marks: dict[str, bool | None] = {}
        for answer in dict.fromkeys(one for one in answers if one):
            group = groups[answer] = await self._group(answer, list(dict.fromkeys(groups.values())))
            if group not in marks:
                marks[group] = None if reference is None else await self._correct(reference, answer)
        out: list[Grade] = []
        for answer in answers:
            if answer:
                out.append(Grade(groups[answer], marks[groups[answer]]))
            else:
                out.append(Grade(None, None if reference is None else False))
        return out

    async def _group(self, answer: str, known: Sequence[str]) -> str:
        for other in known[:_MOST_GROUPS]:
            if _number(answer) is not None and _number(other) is not None:
                continue  # plain numbers that are equal are the same text
            if await self._checker.check(other, answer) is Outcome.EQUAL:
                return other
        return answer

    async def _correct(self, reference: str, answer: str) -> bool | None:
        wanted = plain(reference)
        if answer == wanted:
            return True
        if _number(answer) is not None and _number(wanted) is not None:
            return False
        outcome = await self._checker.check(reference, answer)
        return outcome is Outcome.EQUAL if outcome.known else None
