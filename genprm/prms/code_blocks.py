"""Finds Python blocks in a model's text, and formats their output for the model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from genprm import prompts
from genprm.sandbox import Result, Status

SHOWN = re.compile(
    "(.*?)".join(re.escape(part) for part in prompts.render("genprm/code_output", output="@").split("@")), re.DOTALL
)
"""A snippet's output as the model is shown it."""


def code_output(result: Result, limit: int) -> str:
    """The output of a snippet for the model, in the format of the released executor.

    Args:
        result: the sandbox's result.
        limit: most characters; the middle is replaced by the number of characters left out.
    """
    match result.status:
        case Status.OK | Status.EXIT:
            text = result.stdout.strip()
        case Status.TIMEOUT:
            text = "Code execute time out: Code execution timed out"
        case Status.MEMORY:
            text = f"Code execute Error: MemoryError: {result.error or ''}".rstrip(": ")
        case Status.OUTPUT_LIMIT:
            text = f"{result.stdout.strip()}\nCode execute Error: {result.error}"
        case _:
            text = f"Code execute Error: {result.error}"
    if len(text) <= limit:
        return text
    head, tail = (limit + 1) // 2, limit // 2
    return f"{text[:head]}\n... {len(text) - limit} characters left out ...\n{text[len(text) - tail :] if tail else ''}"


@dataclass(frozen=True, slots=True)
class Block:
    """A Python block of a text."""

    source: str
    closing: str
    """What must be appended to the text to close the block and end the line."""


def last_block(text: str) -> Block | None:
    """The last Python block of a text, if any. An open block reaches to the end of the text."""
    start = text.rfind("```python")
    if start < 0:
        return None
    body = text[start + len("```python") :]
    source, fence, rest = body.partition("```")
    closing = "" if (rest if fence else body).endswith("\n") else "\n"
    return Block(source.strip(), closing if fence else closing + "```\n")
