"""What graders say of a solution's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Grade:
    """What a solution's answer is."""

    answer: str | None
    """The same text for equal answers; None without one."""
    correct: bool | None
    """Whether it equals the reference; None where nobody knows."""


class Grader(Protocol):
    """Reads answers off solutions and compares them; see `genprm.grading.solutions`."""

    async def grade(self, reference: str | None, solutions: Sequence[str]) -> list[Grade]:
        """One grade a solution, in order."""
        ...
