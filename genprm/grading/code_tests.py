"""Solutions that are programs: runs the tests of a problem against the solution's code in the sandbox.

A solution that fails its tests is wrong, whatever the model says. A solution that passes them keeps the model's scores,
as tests seldom cover everything. So failed tests set the score of the last step with code, and of the whole solution,
to 0; passed tests change no score. Either way the run is recorded in that step as a chain (`ChainFinish.TESTS`).

Solution and tests share one interpreter in their own session, so a malicious solution can make its tests pass.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace

from genprm.sandbox import Result, Sandbox, Status
from genprm.spent import Part, spent_in
from genprm.types import Chain, ChainFinish, CodeRun, Judgement, StepJudgement, Verdict

_FENCED = re.compile(
    r"^ {0,3}(`{3,}|~{3,})[ \t]*(\w*)[^\n]*\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_PYTHON = ("", "py", "python", "python3")


@dataclass(frozen=True, slots=True)
class CandidateBlock:
    """One code block of a solution."""

    step: int
    """0-based index of its step."""
    source: str


def candidate_blocks(steps: Sequence[str]) -> list[CandidateBlock]:
    """The fenced Python blocks of a solution, in order. A fence without a language counts as Python."""
    return [
        CandidateBlock(index, match[3])
        for index, step in enumerate(steps)
        for match in _FENCED.finditer(step)
        if match[2].lower() in _PYTHON
    ]


async def check_code(judgement: Judgement, steps: Sequence[str], tests: str, box: Sandbox) -> Judgement:
    """Runs a solution's code and then its tests, and adds the outcome to the judgement.

    Args:
        judgement: the judge's judgement of the solution.
        steps: the solution's steps. Their Python blocks run in order; later blocks run even if one fails.
        tests: Python that raises when the solution is wrong, as `assert` does.
        box: the sandbox.

    Returns:
        The judgement, unchanged if the solution has no code.

    Raises:
        SandboxError: the sandbox itself broke.
    """
    blocks = candidate_blocks(steps)
    if not blocks:
        return judgement
    async with box.session() as session:
        with spent_in(Part.SANDBOX):
            runs = [_run(block.source, await session.run(block.source)) for block in blocks]
            result = await session.run(tests)
    runs.append(_run(tests, result))
    passed = result.status is Status.OK
    verdict = Verdict.YES if passed else Verdict.NO
    text = "The tests pass." if passed else f"The tests fail: {result.error or result.status.value}"
    place = blocks[-1].step
    steps_now = list(judgement.steps)
    step = steps_now[place]
    chain = Chain(text, tuple(runs), float(passed), None, verdict, ChainFinish.TESTS)
    steps_now[place] = replace(step if passed else _failed(step, text), chains=(*step.chains, chain))
    if passed:
        return replace(judgement, steps=tuple(steps_now))
    named = judgement.first_error_vote
    return replace(
        judgement,
        steps=tuple(steps_now),
        solution=None if judgement.solution is None else _failed(judgement.solution, text),
        first_error_vote=None if named is None else place if named == -1 else min(named, place),
    )


class CodeTests:
    """Opens a sandbox for the first solution with tests, and keeps it.

    Args:
        opening: returns a sandbox that is not open yet.
    """

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[Sandbox]]) -> None:
        self._opening = opening
        self._box: Sandbox | None = None
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> CodeTests:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def check(self, judgement: Judgement, steps: Sequence[str], tests: str) -> Judgement:
        """See `check_code`.

        Raises:
            SandboxError: no sandbox could be opened, or the sandbox broke.
        """
        async with self._lock:
            if self._box is None:
                self._box = await self._stack.enter_async_context(self._opening())
        return await check_code(judgement, steps, tests, self._box)


def _failed(step: StepJudgement, reason: str) -> StepJudgement:
    return replace(step, score=0.0, log_odds=-math.inf, verdict=Verdict.NO, reason=reason)


def _run(source: str, result: Result) -> CodeRun:
    return CodeRun(source, result.status.value, result.stdout, result.error, result.duration_s)
