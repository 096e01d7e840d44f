"""One call for one solution, for notebooks and scripts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from genprm.prms import load_prm
from genprm.types import Judgement


async def judge(problem: str, steps: Sequence[str], *, model: str = "nano", seed: int = 0, **options: Any) -> Judgement:
    """Loads a judge, judges one solution, and closes the judge again.

    Args:
        problem: the question.
        steps: the solution's steps in order.
        model: as for `load_prm`.
        seed: makes sampling repeatable.
        **options: of `load_prm`, such as `votes=8` or `sandbox="bubblewrap"`.

    Raises:
        PRMError: the model is not known, or there is nothing to judge.
        EngineError: the engine does not load or cannot answer.
        SandboxError: no sandbox could be opened, or it broke.
    """
    prm = await load_prm(model, **options)
    try:
        return await prm.judge(problem, steps, seed=seed)
    finally:
        await prm.close()


def judge_sync(problem: str, steps: Sequence[str], *, model: str = "nano", seed: int = 0, **options: Any) -> Judgement:
    """`judge` for code without an event loop; in a notebook, whose loop runs already, it works as well."""
    outcome: list[Judgement | BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(judge(problem, steps, model=model, seed=seed, **options)))
        except BaseException as error:
            outcome.append(error)

    # A thread of its own: `asyncio.run` refuses to work where a loop is running.
    thread = threading.Thread(target=work, name="genprm-judge")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
