"""Python blocks in what a model wrote, and what it is told about their execution. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from genprm.sandbox import Result, Status


def code_output(result: Result, limit: int) -> str:
    """What the model is told about a snippet, in the words of the released executor.

    Args:
        result: what the sandbox saw.
        limit: most characters; what is left out is counted in between.
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
    """What must follow the text so that the block is closed and a line ended."""


def last_block(text: str) -> Block | None:
    """The last Python block of a text, where there is one. One that is still open reaches to the end of the text."""
    start = text.rfind("```python")
    if start < 0:
        return None
    body = text[start + len("```python") :]
    source, fence, rest = body.partition("```")
    closing = "" if (rest if fence else body).endswith("\n") else "\n"
    return Block(source.strip(), closing if fence else closing + "```\n")
