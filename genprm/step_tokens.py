"""Where steps stand in a text and among its tokens, and how a value a step becomes a value a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of a text, from `start` up to and without `end`."""

    start: int
    end: int


def step_spans(solution: str, steps: Sequence[str], *, begin: int = 0) -> list[Span]:
    """Where each step stands in the solution that it was split from.

    Args:
        solution: the text.
        steps: as `genprm.data.steps.split_steps` gave them: in order, white space around them left out.
        begin: the first character that may belong to a step, behind a reasoning model's thoughts.

    Raises:
        ValueError: a step does not stand in the text behind the one before it.
    """
    spans: list[Span] = []
    at = begin
    for index, step in enumerate(steps):
        # Splitting joins the lines of a step by \n, whatever ended them in the text.
        first, *rest = step.split("\n")
        start = end = solution.find(first, at)
        for line in [first, *rest]:
            found = solution.find(line, end) if end >= 0 else -1
            if found < 0:
                raise ValueError(f"step {index} does not stand in the solution: {step[:80]!r}")
            end = found + len(line)
        spans.append(Span(start, end))
        at = end
    return spans


def token_steps(spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """To which step each token belongs.

    Args:
        spans: of the steps, in order.
        offsets: first character and end of each token, as fast tokenizers give them (`return_offsets_mapping`).

    Returns:
        For each token the index of the step in which it ends, or of the step before it where it is white space between
        two; None before the first step.
    """
    found: list[int | None] = []
    step = -1
    for _, end in offsets:
        while step + 1 < len(spans) and end > spans[step + 1].start:
            step += 1
        found.append(step if step >= 0 else None)
    return found


def spread(values: Sequence[float], owners: Sequence[int | None]) -> list[float]:
    """The value of its step on each token, for advantages; 0 where a token belongs to no step."""
    return [0.0 if owner is None else values[owner] for owner in owners]


def at_ends(values: Sequence[float], owners: Sequence[int | None]) -> list[float]:
    """The value of each step on its last token and 0 elsewhere, for rewards that a trainer adds up itself.

    A step without a token of its own passes its value to the last token before it, or to the first token, so that
    nothing is lost; without any token the list is empty.
    """
    placed = [0.0] * len(owners)
    if not placed:
        return placed
    last = 0
    ends: dict[int, int] = {owner: index for index, owner in enumerate(owners) if owner is not None}
    for step, value in enumerate(values):
        last = ends.get(step, last)
        placed[last] += value
    return placed
