r"""Reading the final answers off solutions, and telling which of them are equal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from genprm.search.run import Grade

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WRAPPED = re.compile(r"^\\(?:text|mathrm|mathbf)\s*\{(.*)\}$", re.DOTALL)


def final_answer(solution: str) -> str | None:
    r"""What stands in the last `\boxed{}` of a solution; None without one, or when it is left open."""
    starts = [match.end() for match in _BOXED.finditer(solution)]
    if not starts:
        return None
    depth = 1
    for index in range(starts[-1], len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[index], 0)
        if depth == 0:
            return solution[starts[-1] : index].strip() or None
    return None


def plain(answer: str) -> str:
    """An answer without what does not change it: spaces, dollar signs, a final full stop, `12.0` for `12`."""
    text = answer.strip().strip("$").strip().rstrip(".").strip()
    if match := _WRAPPED.match(text):
        text = match[1].strip()
    text = re.sub(
        r"\\[,!;]|\s+", "", text.replace("\\$", "").replace("\\%", "").replace("\\left", "").replace("\\right", "")
    )
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    try:
        number = Decimal(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))
    except InvalidOperation:
        return text
    return format(number.normalize(), "f") if number.is_finite() else text


class TextGrader:
    """Calls answers equal that read the same once spaces and the like are gone: for answers that are numbers."""

    async def grade(self, reference: str | None, solutions: Sequence[str]) -> list[Grade]:
        """See `genprm.search.run.Grader`."""
        wanted = None if reference is None else plain(reference)
        out: list[Grade] = []
        for solution in solutions:
            found = final_answer(solution)
            answer = None if found is None else plain(found)
            out.append(Grade(answer, None if wanted is None else answer == wanted))
        return out
