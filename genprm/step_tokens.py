"""Locates steps in a text and its tokens, and maps values of steps to tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of a text, from `start` to before `end`."""

    start: int
    end: int


def step_spans(solution: str, steps: Sequence[str], *, begin: int = 0) -> list[Span]:
    """The position of each step in the solution that it was split from.

    Args:
        solution: the text.
        steps: from `genprm.data.steps.split_steps`: in order, without surrounding white space.
        begin: the first character that may belong to a step, after a reasoning model's thoughts.

    Raises:
        ValueError: a step is not in the text after the previous one.
    """
    spans: list[Span] = []
    at = begin
    for index, step in enumerate(steps):
        # Splitting joins the lines of a step by \n, whatever the line ends in the text.
        first, *rest = step.split("\n")
        start = end = solution.find(first, at)
        for line in [first, *rest]:
            found = solution.find(line, end) if end >= 0 else -1
            if found < 0:
                raise ValueError(f"step {index} is not in the solution: {step[:80]!r}")
            end = found + len(line)
        spans.append(Span(start, end))
        at = end
    return spans


def token_steps(spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """The step of each token.

    Args:
        spans: spans of the steps, in order.
        offsets: first character and end of each token, from a fast tokenizer (`return_offsets_mapping`).

    Returns:
        For each token, the index of the step in which it ends, or of the step before it if it is white space between
        two;
            None before the first step.
    """
    found: list[int | None] = []
    step = -1
    for _, end in offsets:
        while step + 1 < len(spans) and end > spans[step + 1].start:
            step += 1
        found.append(step if step >= 0 else None)
    return found


def token_ends(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[int]:
    """For each token the number of characters of the text up to its end, as `token_steps` needs them.

    Sampled tokens need not be those that their text is tokenised to, so the ids themselves are decoded, each with the
    few before it that may change how it reads. A character of several tokens counts from the last of them on.

    Args:
        decode: the tokenizer's, without clean-up of spaces.
        ids: the tokens of one text.

    Returns:
        Offsets that never fall; the last is the length of `decode(ids)`.
    """
    ids = list(ids)
    ends: list[int] = []
    begin = read = 0  # ids[begin:read] are decoded before the token, so that the rest reads as it does in the text
    length = before = 0
    for index in range(len(ids)):
        now = decode(ids[begin : index + 1])
        if not now.endswith("\ufffd"):
            length += len(now) - before
            begin, read = read, index + 1
            before = len(decode(ids[begin:read]))
        ends.append(length)
    whole = decode(ids)
    if ends and (ends[-1] != len(whole) or any(b < a for a, b in pairwise(ends))):
        # A text that ends inside a character, or a tokenizer that looks farther back. Exact, in quadratic time.
        ends = list(accumulate((len(decode(ids[: index + 1])) for index in range(len(ids))), max))
        ends = [*(min(end, len(whole)) for end in ends[:-1]), len(whole)]
    return ends


def spread(values: Sequence[float], owners: Sequence[int | None]) -> list[float]:
    """Gives each token the value of its step, for advantages; 0 for tokens of no step."""
    return [0.0 if owner is None else values[owner] for owner in owners]


def at_ends(values: Sequence[float], owners: Sequence[int | None]) -> list[float]:
    """Puts the value of each step on its last token and 0 elsewhere, for rewards that a trainer sums itself.

    A step without its own token passes its value to the last token before it, or to the first token, so that
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
