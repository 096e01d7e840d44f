"""The text of the GenPRM protocol: its variants, its markers, and parsing of turns. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from genprm.prms.base import PRMError
from genprm.types import Verdict

ANALYSIS_END = "</analyze>\n"
FENCE_END = "\n```\n"
OUTPUT_END = "</output>\n"
FAKE_OUTPUT = "[Code Output]"
FORCED_TOKENS = 20
"""Most tokens generated after the forced question."""

_VERDICT = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{\s*)?(Yes|No)\b")


@dataclass(frozen=True, slots=True)
class Profile:
    """Variants of the protocol, in which released code, model card and trained models differ.

    The defaults suit any model with a chat template; `RELEASED` is the released inference code's variant.
    """

    question: Literal["bare", "question"] = "bare"
    r"""First user turn: `{problem}\n{step}` as the ProcessBench driver sends it, or `Question: {problem}\n\n{step}` as
    the model card and the demo do."""
    assistant_marker: bool = True
    """Whether the current turn starts with the template's assistant marker, as intended by chat templates. The released
    code omits it, because it renders the prompt only up to the user turn; earlier turns always have it. With it, a
    turn has the same ids when it is written and when it is history, so the prefix cache holds all of it."""
    bos: int | None = None
    """Begin-of-sequence tokens at the start. None means those of the chat template, and one more if the tokenizer adds
    one (`add_bos_token`), as when the released code passes rendered text to vLLM: two for the released models."""
    seam: Literal["open", "joined", "split"] = "open"
    """How the opening and the analysis after it are tokenised. `open`: the opening's last space is left to the model,
    which writes it with its first word, as in any text. `joined`: as one text once the analysis is written, as in the
    released code from its second stage on; where this changes the first token, a prefix cache does not hold the
    analysis. `split`: separately, so that the first word has no leading space."""
    analysis_tokens: int = 2048
    """Longest analysis."""
    step_tokens: int = 2048
    """Longest assistant turn, including executed output, before the forced question is asked."""
    rounds: int = 3
    """Generations after the analysis. (The released code calls this its time limit.)"""
    output_chars: int = 2000
    """Characters of a snippet's output that enter the prompt: head and tail are kept."""

    def __post_init__(self) -> None:
        if self.question not in ("bare", "question"):
            raise PRMError(f"profile.question must be 'bare' or 'question', not {self.question!r}")
        if self.seam not in ("joined", "open", "split"):
            raise PRMError(f"profile.seam must be 'joined', 'open' or 'split', not {self.seam!r}")
        for name in ("analysis_tokens", "step_tokens", "rounds", "output_chars"):
            if getattr(self, name) < 1:
                raise PRMError(f"profile.{name} must be at least 1, not {getattr(self, name)!r}")
        if self.bos is not None and self.bos < 0:
            raise PRMError(f"profile.bos must be 0 or more, not {self.bos!r}")


RELEASED = Profile(assistant_marker=False, seam="joined")
"""The protocol variant of the released inference code."""


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Sampling settings of chains; the defaults are the released inference code's."""

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20


def find_verdict(text: str, start: int = 0) -> tuple[Verdict, int] | None:
    r"""The verdict of an assistant turn, and the position of its word.

    Args:
        text: the assistant's turn.
        start: where to begin. Only text after the last `<output>` from there on counts, so that neither a
            `\boxed{No}` in the analysis nor one that a snippet printed is a verdict.
    """
    opened = text.rfind("<output>", start)
    if opened < 0:
        return None
    found = list(_VERDICT.finditer(text, opened))
    return (Verdict(found[-1].group(1)), found[-1].start(1)) if found else None
