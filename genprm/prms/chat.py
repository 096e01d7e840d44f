"""The pieces of a chat template, so that a conversation can grow by token ids and is never rendered twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """The text of a chat template around the messages of system, user and assistant turns."""

    before_system: str
    before_first_user: str
    before_assistant: str
    """From the end of a user's message to the assistant's: the assistant marker."""
    before_user: str
    """From the end of an assistant's message to the user's: the end of the turn and the user marker."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatFrame:
        """Extracts the pieces from the template by rendering a conversation of marks.

        Raises:
            EngineError: there is no chat template, or it refuses the roles.
            PRMError: the template rearranges or drops messages, so there are no such pieces.
        """
        return cls(*chat_pieces(tokenizer, ("system", "user", "assistant", "user"))[:4])


def chat_pieces(tokenizer: Tokenizer, roles: Sequence[str]) -> list[str]:
    """The text of a chat template before, between and after messages of these roles: one piece more than roles.

    Raises:
        EngineError: there is no chat template, or it refuses the roles.
        PRMError: the template rearranges or drops messages.
    """
    marks = [f"{role}-{index}-7f3a" for index, role in enumerate(roles)]
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    rest = tokenizer.render_chat(messages, add_generation_prompt=False)
    pieces: list[str] = []
    for mark in marks:
        piece, found, rest = rest.partition(mark)
        if not found:
            raise PRMError(
                f"the chat template of {tokenizer.name!r} does not keep messages in order: {mark!r} is missing from "
                "its output"
            )
        pieces.append(piece)
    return [*pieces, rest]
