r"""Reads the final answers of solutions and groups equal ones.

`docs/answers.md` states which answers are equal. Groups for a vote are found without the reference answer, so that
nothing of it leaks into votes. Each distinct answer is compared with the reference separately.
"""

from __future__ import annotations

from collections.abc import Sequence

from genprm.grading.answers import AnswerChecker, Outcome, boxed_answer
from genprm.grading.grades import Grade
from genprm.grading.normal import normalised

_MOST_GROUPS = 32
"""Maximum number of groups that an answer is compared with; later answers form their own groups."""


class AnswerGrader:
    """Compares answers with `genprm.grading.answers`.

    Args:
        checker: stays open.
    """

    def __init__(self, checker: AnswerChecker) -> None:
        self._checker = checker

    async def grade(self, reference: str | None, solutions: Sequence[str]) -> list[Grade]:
        """See `genprm.grading.grades.Grader`.

        Raises:
            AnswerError: math-verify cannot be started.
        """
        answers = [_plain(boxed_answer(solution)) for solution in solutions]
        groups = await self.group(answers)
        marks: dict[str, bool | None] = {}
        if reference is not None:
            for answer in dict.fromkeys(one for one in answers if one is not None):
                outcome = await self._checker.check(reference, answer)
                marks[answer] = outcome is Outcome.EQUAL if outcome.known else None
        missing = None if reference is None else False
        return [
            Grade(group, missing if answer is None else marks.get(answer))
            for answer, group in zip(answers, groups, strict=True)
        ]

    async def group(self, answers: Sequence[str | None]) -> list[str | None]:
        r"""Gives equal answers the same text: the normalised text of the first of them.

        Equality is not transitive (`50` and `0.5` both equal `50\%`), so an answer joins a group only when it equals
        every member, in both orders.

        Args:
            answers: None and blank answers stay without a group.

        Raises:
            AnswerError: math-verify cannot be started.
        """
        plain = [_plain(answer) for answer in answers]
        groups: list[list[str]] = []
        names: dict[str, str] = {}
        for answer in dict.fromkeys(one for one in plain if one is not None):
            for group in groups[:_MOST_GROUPS]:
                if await self._equals_all(answer, group):
                    group.append(answer)
                    break
            else:
                group = [answer]
                groups.append(group)
            names[answer] = group[0]
        return [None if answer is None else names[answer] for answer in plain]

    async def _equals_all(self, answer: str, group: Sequence[str]) -> bool:
        for member in group:
            for pair in ((member, answer), (answer, member)):
                if await self._checker.check(*pair) is not Outcome.EQUAL:
                    return False
        return True


def _plain(answer: str | None) -> str | None:
    """The normalised text of an answer; None when it is missing or blank."""
    return (normalised(answer).text or None) if answer is not None and answer.strip() else None
