"""A small taskset for verifiers: word problems with their answers. `verifiers.toml` beside this file names it.

Any taskset whose tasks have a field with the reference answer takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf

from genprm.data.word_problems import make_problems

__all__ = ["WordProblems"]


class ProblemData(vf.TaskData):
    """One problem."""

    answer: str


class ProblemTask(vf.Task[ProblemData]):
    """Has no reward of its own: the judge plugin rewards the reply."""


class ProblemsConfig(vf.TasksetConfig):
    """Which problems."""

    problems: int = 8
    seed: int = 31_000


class WordProblems(vf.Taskset[ProblemTask, ProblemsConfig]):
    """Problems of two and three steps."""

    def load(self) -> Iterator[ProblemTask]:
        """Yields the tasks."""
        for one in make_problems(self.config.problems, seed=self.config.seed, steps=(2, 3)):
            yield ProblemTask(ProblemData(prompt=one.text, answer=one.answer), self.config.task)
