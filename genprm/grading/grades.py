"""Grades of solutions: their answer, and whether it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Grade:
    """Grade of one solution."""

    answer: str | None
    """The final answer; equal answers have the same text. None without one."""
    correct: bool | None
    """Whether it equals the reference; None when unknown."""


class Grader(Protocol):
    """Reads the answers of solutions and compares them; see `genprm.grading.solutions`."""

    async def grade(self, reference: str | None, solutions: Sequence[str]) -> list[Grade]:
        """Returns one grade per solution, in order."""
        ...

    async def group(self, answers: Sequence[str | None]) -> list[str | None]:
        """Gives equal answers the same text, in order. None and blank answers stay None."""
        ...
