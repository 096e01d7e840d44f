"""Extracts problem and solution from a trainer's input to a reward: chat messages, or text in a chat template.

Needs only the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

_TURNS = (
    # (what opens a user's turn, what ends it)
    (r"<\|im_start\|>user\n", r"<\|im_end\|>"),  # ChatML: Qwen, SmolLM
    (r"<\|start_header_id\|>user<\|end_header_id\|>\n\n", r"<\|eot_id\|>"),  # Llama 3
    (r"<start_of_turn>user\n", r"<end_of_turn>"),  # Gemma
    (r"<[|｜]User[|｜]>", r"<[|｜](?:Assistant|end▁of▁sentence)[|｜]>"),  # DeepSeek
    (r"\[INST\]", r"\[/INST\]"),  # Mistral
)
_USER = re.compile(
    "|".join(f"(?:{opening}(?P<t{n}>.*?)(?:{end}|\\Z))" for n, (opening, end) in enumerate(_TURNS)), re.S
)
_END = re.compile(
    r"(?:\s*(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|end_of_text\|>|<end_of_turn>|<eos>|</s>"
    r"|<[|｜]end▁of▁sentence[|｜]>))+\s*\Z"
)
_THOUGHT = re.compile(r"\A.*</think>", re.S)


def problem_of(prompt: object) -> str:
    """The question in a prompt: the last user turn of messages or of a chat template, or the whole text.

    Args:
        prompt: a text, or messages with `role` and `content`.

    Raises:
        ValueError: it is neither, or there is no user message.
    """
    if isinstance(prompt, str):
        found = list(_USER.finditer(prompt))
        if not found:
            return prompt.strip()
        return next(text for text in found[-1].groups() if text is not None).strip()
    if isinstance(prompt, Sequence):
        for message in reversed(cast("Sequence[object]", prompt)):
            if isinstance(message, Mapping) and cast("Mapping[str, Any]", message).get("role") == "user":
                return text_of(cast("Mapping[str, Any]", message).get("content")).strip()
    raise ValueError(f"a prompt must be a text or a list of messages with a user turn, not {str(prompt)[:200]!r}")


def solution_of(completion: object) -> str:
    """The solution in a completion: the last message, or the text without end-of-turn tokens.

    A reasoning model's text before `</think>` is removed. An unfinished thought, or one that nothing follows, has no
    solution: the result is empty.
    """
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        messages = [one for one in cast("Sequence[object]", completion) if isinstance(one, Mapping)]
        last = cast("Mapping[str, Any]", messages[-1]) if messages else {}
        completion = text_of(last.get("content"))
    text = _END.sub("", str(completion))
    if text.lstrip().startswith("<think>") and "</think>" not in text:
        return ""
    return _THOUGHT.sub("", text).strip()


def text_of(content: object) -> str:
    """The text of a message's content, which may be a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = (one for one in cast("Sequence[object]", content) if isinstance(one, Mapping))
        texts = (cast("Mapping[str, Any]", part).get("text") for part in parts)
        return "".join(text for text in texts if isinstance(text, str))
    raise ValueError(f"a message's content must be a text or a list of parts, not {str(content)[:200]!r}")
