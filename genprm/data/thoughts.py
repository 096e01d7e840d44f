"""Separates what a reasoning model thinks from the solution that it then gives.

Only the solution is judged, graded, and sent back to a policy: thoughts wander, and their chat templates drop them too.
"""

from __future__ import annotations

from dataclasses import dataclass

THINK, THINK_END = "<think>", "</think>"
UNCLOSED = f"the model was still thinking: there is no {THINK_END}"
"""Why a text that is a thought without an end is not a solution."""


@dataclass(frozen=True, slots=True)
class Thoughtful:
    """A text in its two parts."""

    thoughts: str | None
    """None where there are none."""
    solution: str
    """Empty while the thought is open."""
    thinking: bool
    """Whether the thought has no end."""


def cut_thoughts(text: str, *, thinking: bool = False) -> Thoughtful:
    """Cuts a text at its last `</think>`.

    Args:
        text: what a model wrote.
        thinking: whether it began inside a thought, as behind a template that ends with `<think>`.
    """
    before, end, after = text.rpartition(THINK_END)
    # A thought begins a text; `<think>` in the middle of a sentence is only mentioned.
    opened = after.lstrip().startswith(THINK) or (thinking and not end)
    if not end and not opened:
        return Thoughtful(None, text, False)
    thoughts = (text if opened else before).strip().removeprefix(THINK).strip()
    return Thoughtful(thoughts or None, "" if opened else after, opened)
