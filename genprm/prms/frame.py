"""The pieces of a chat template, so that a conversation can grow by token ids and is never rendered twice."""

from __future__ import annotations

from dataclasses import dataclass

from genprm.engines.base import EngineError
from genprm.engines.tokenizer import Tokenizer

_MARKS = ("system-7f3a", "user-7f3a", "assistant-7f3a", "again-7f3a")


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """What a chat template writes around the messages of a conversation of system, user and assistant turns."""

    before_system: str
    before_first_user: str
    before_assistant: str
    """From the end of a user's message to the assistant's: the assistant marker."""
    before_user: str
    """From the end of an assistant's message to the user's: the end of the turn and the user marker."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatFrame:
        """Reads the pieces off the template by rendering a conversation of marks.

        Raises:
            EngineError: the template rearranges or drops messages, so there are no such pieces.
        """
        system, user, assistant, again = _MARKS
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": user},
            {"role": "assistant", "content": assistant},
            {"role": "user", "content": again},
        ]
        rendered = tokenizer.render_chat(messages, add_generation_prompt=False)
        pieces: list[str] = []
        for mark in _MARKS:
            piece, found, rendered = rendered.partition(mark)
            if not found:
                raise EngineError(
                    f"the chat template of {tokenizer.name!r} does not keep system, user and assistant turns in order: "
                    f"{mark!r} is missing from what it renders"
                )
            pieces.append(piece)
        return cls(*pieces)
