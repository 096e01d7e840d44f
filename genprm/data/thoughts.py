"""Separates a reasoning model's thoughts from its solution.

Only the solution is judged, graded, and sent back to a policy; chat templates drop thoughts too.
"""

from __future__ import annotations

from dataclasses import dataclass

THINK, THINK_END = "<think>", "</think>"
UNCLOSED = f"the model was still thinking: there is no {THINK_END}"
"""Reason why an unfinished thought is not a solution."""


@dataclass(frozen=True, slots=True)
class Thoughtful:
    """A text split into thoughts and solution."""

    thoughts: str | None
    """None if there are none."""
    solution: str
    """Empty if the thought is unfinished."""
    thinking: bool
    """Whether the thought is unfinished."""


def cut_thoughts(text: str, *, thinking: bool = False) -> Thoughtful:
    """Cuts a text at its last `</think>`.

    Args:
        text: what a model wrote.
        thinking: whether it started inside a thought, as after a template that ends with `<think>`.
    """
    before, end, after = text.rpartition(THINK_END)
    # Thoughts start a text; `<think>` in the middle of a sentence is only a mention.
    opened = after.lstrip().startswith(THINK) or (thinking and not end)
    if not end and not opened:
        return Thoughtful(None, text, False)
    thoughts = (text if opened else before).strip().removeprefix(THINK).strip()
    return Thoughtful(thoughts or None, "" if opened else after, opened)
