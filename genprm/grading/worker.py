"""The worker of `genprm.grading.answers`: reads pairs of answers as JSON lines and writes how they compare.

It has no time limit: math-verify's relies on SIGALRM, which cannot interrupt a long computation in C. The parent kills
the process instead.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from typing import Any

from genprm.grading.normal import decided, decimals, normalised

MEMORY_BYTES = 4 << 30
"""Address space of a worker, in bytes: a number with a billion digits must not exhaust the machine."""
_IMAGINARY = "i"


def compare(gold: str, answer: str) -> str:
    """Compares an answer with the gold answer. Returns the value of an `Outcome`."""
    left, right = normalised(gold), normalised(answer)
    known = decided(left, right)
    if known is not None:
        return "equal" if known else "different"
    parsed_gold: list[Any] = _parse(left.text)
    if not parsed_gold:
        # Words such as `\\text{east}` were compared as text above.
        return "different" if _parse(right.text) or right.text else "unparseable"
    parsed: list[Any] = _parse(right.text)
    if not parsed or any(_undefined(one) for one in parsed):
        return "unparseable"
    from math_verify import verify

    same = verify(
        parsed_gold,
        parsed,
        float_rounding=decimals(left.text, right.text),
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=True,
    )
    return "equal" if same else "different"


def _parse(text: str) -> list[Any]:
    import math_verify

    parse: Any = math_verify.parse
    # As LaTeX: on bare text, `parse` guesses that the last number is the answer.
    return [_complex(one) for one in parse(f"${text}$", parsing_timeout=None)] if text.strip() else []


def _undefined(parsed: Any) -> bool:
    """Whether a value does not exist, such as 1/0; math-verify raises on it."""
    from sympy import Basic, nan, zoo

    return isinstance(parsed, Basic) and (parsed.doit().has(zoo, nan))


def _complex(parsed: Any) -> Any:
    """Reads `i` as the imaginary unit, except where it is bound by a sum or a product."""
    from sympy import Basic, I, MatrixBase

    if not isinstance(parsed, (Basic, MatrixBase)):
        return parsed
    units = [symbol for symbol in parsed.free_symbols if getattr(symbol, "name", "") == _IMAGINARY]
    return parsed.subs(dict.fromkeys(units, I)) if units else parsed


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
