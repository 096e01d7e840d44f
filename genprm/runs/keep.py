"""How much of a judgement is written down. A module of its own, so that the command line can name it at no cost."""

from __future__ import annotations

from enum import StrEnum


class Keep(StrEnum):
    """How much of a judgement a row keeps."""

    FULL = "full"
    """Everything: problem, steps, every chain's text, code and output. About 16 kB a chain of 4,000 tokens."""
    SCORES = "scores"
    """Scores, verdicts and token counts: about 100 bytes a step."""
