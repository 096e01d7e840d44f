"""What the judges that write chains share: the check of their input, and the seeds of their calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

from genprm.prms.base import PRMError


def check_steps(steps: Sequence[str]) -> None:
    """Makes sure that there is something to judge.

    Raises:
        PRMError: there are no steps, one is blank, or they are something else than a list of texts.
    """
    given: object = steps
    if isinstance(given, (str, bytes)):
        raise PRMError(
            f"steps is a list of texts, not one text: {given!r:.60}. genprm.data.steps.split_steps(text) splits it."
        )
    if not steps:
        raise PRMError("there are no steps to judge")
    for index, step in enumerate(cast("Sequence[object]", steps)):
        if not isinstance(step, str):
            raise PRMError(f"step {index} is not a text: {step!r:.60}")
        if not step.strip():
            raise PRMError(f"step {index} is blank: {step!r}")


def check_votes(votes: int, temperature: float) -> None:
    """Makes sure that votes can differ.

    Raises:
        PRMError: there are no votes, or they would all be the same chain.
    """
    if votes < 1:
        raise PRMError(f"votes must be at least 1, not {votes!r}")
    if votes > 1 and temperature == 0:
        raise PRMError(f"{votes} votes at temperature 0 are {votes} times the same chain: pass a temperature, 0.6 say")


def characters_of(problem: str, steps: Sequence[str]) -> int:
    """How long a solution is."""
    return len(problem) + sum(map(len, steps))


def call_seed(*where: int) -> int:
    """The seed of one engine call, 31 bits that depend on every number which says what the call is for."""
    name = "/".join(map(str, where))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") >> 1


def chain_name(*parts: object) -> str:
    """A name for a conversation: calls of one go to the server that holds its prefix."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def where_they_part(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """What two words' ids have in common at their start, and the two ids after that."""
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    if shared == min(len(first), len(second)):
        raise PRMError(f"the tokenizer makes one word the beginning of the other: {list(first)} and {list(second)}")
    return list(first[:shared]), [first[shared], second[shared]]
