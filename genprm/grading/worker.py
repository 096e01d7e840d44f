"""The worker of `genprm.grading.answers`: reads pairs of answers as JSON lines and writes how they compare.

It has no time limit: math-verify's relies on SIGALRM, which cannot interrupt a long computation in C. The parent kills
the process instead.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
from typing import Any

MEMORY_BYTES = 4 << 30
"""Address space of a worker, in bytes: a number with a billion digits must not exhaust the machine."""
_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}")


def compare(gold: str, answer: str) -> str:
    """Compares an answer with the gold answer. Returns the value of an `Outcome`."""
    from math_verify import parse, verify

    if _plain(gold) == _plain(answer):
        return "equal"
    parsed_gold: list[Any] = _parse(parse, gold)
    if not parsed_gold:
        # Words such as `\text{east}` were compared as text above.
        return "different" if _parse(parse, answer) or _plain(answer) else "unparseable"
    parsed: list[Any] = _parse(parse, answer)
    if not parsed:
        return "unparseable"
    same = verify(parsed_gold, parsed, timeout_seconds=None, raise_on_error=True)
    return "equal" if same else "different"


def _parse(parse: Any, text: str) -> list[Any]:
    # As LaTeX: on bare text, `parse` guesses that the last number is the answer.
    return parse(f"${text}$", parsing_timeout=None) if text.strip() else []


def _plain(text: str) -> str:
    r"""The text without spaces, delimiters, sized brackets and `\text{...}` around words."""
    text = _WORDS.sub(r"\1", text)
    for mark in ("\\left", "\\right", "\\!", "\\,", "\\;", "\\ ", "$"):
        text = text.replace(mark, "")
    return re.sub(r"\s+", "", text).replace("dfrac", "frac").replace("tfrac", "frac").rstrip(".")


def main() -> None:
    """Answers until standard input ends. Output that libraries print is kept out of the replies."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # Printing a huge integer can hang even when computing it does not; the limit makes it an error.
    sys.set_int_max_str_digits(100_000)
    logging.disable(logging.CRITICAL)
    compare("1", "2")  # loads sympy and fills its caches before the first time limit starts
    compare("\\frac{1}{2}", "0.5")
    replies.write("ready\n")
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            outcome = compare(gold, answer)
        except (Exception, RecursionError) as error:
            outcome = f"error {type(error).__name__}"
        replies.write(outcome + "\n")


if __name__ == "__main__":
    main()
