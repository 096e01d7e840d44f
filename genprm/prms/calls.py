"""Shared by judges that write chains: input checks, and the seeds of engine calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

from genprm.prms.base import PRMError


def check_steps(steps: Sequence[str]) -> None:
    """Checks that there are steps to judge.

    Raises:
        PRMError: there are no steps, one is blank, or they are not a list of texts.
    """
    given: object = steps
    if isinstance(given, (str, bytes)):
        raise PRMError(
            f"steps must be a list of texts, not one text: {given!r:.60}. genprm.data.steps.split_steps splits it."
        )
    if not steps:
        raise PRMError("there are no steps to judge")
    for index, step in enumerate(cast("Sequence[object]", steps)):
        if not isinstance(step, str):
            raise PRMError(f"step {index} is not a text: {step!r:.60}")
        if not step.strip():
            raise PRMError(f"step {index} is blank: {step!r}")


def check_votes(votes: int, temperature: float) -> None:
    """Checks that votes can differ.

    Raises:
        PRMError: there are no votes, or they would all be the same chain.
    """
    if votes < 1:
        raise PRMError(f"votes must be at least 1, not {votes!r}")
    if votes > 1 and temperature == 0:
        raise PRMError(f"{votes} votes at temperature 0 are {votes} times the same chain: set a temperature like 0.6")


def characters_of(problem: str, steps: Sequence[str]) -> int:
    """The length of a problem and its solution, in characters."""
    return len(problem) + sum(map(len, steps))


def call_seed(*where: int) -> int:
    """The seed of one engine call: 31 bits that depend on all given numbers, which identify the call."""
    name = "/".join(map(str, where))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") >> 1


def chain_name(*parts: object) -> str:
    """A name for a conversation; its calls go to the server that holds its prefix."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def where_they_part(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """The common prefix of two words' ids, and the two ids after it."""
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    if shared == min(len(first), len(second)):
        raise PRMError(f"the tokenizer makes one word the beginning of the other: {list(first)} and {list(second)}")
    return list(first[:shared]), [first[shared], second[shared]]
