r"""Normalises answers before math-verify compares them, and decides the pairs that math-verify gets wrong.

`docs/answers.md` states the policy: what counts as the same answer. Everything here works on text. Algebra is left to
math-verify.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "\\div ", "π": "\\pi ", "∞": "\\infty ",
        "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ",
        "ℝ": "\\mathbb{R}", "°": "^\\circ ", "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
        "²": "^2", "³": "^3", "⟨": "\\langle ", "⟩": "\\rangle ", "±": "\\pm ", "\u00a0": " ", "\u202f": " ",
    }
)  # fmt: skip
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r",\\!\s*", ","),
        (r"\{,\}", ","),
        (r"\\!|\\displaystyle|\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![A-Za-z])\.?|\\?\$", ""),
        (r"(?<!\\)\\[,;:> ]|\\quad|\\qquad|~", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\lt(?![A-Za-z])", " < "),
        (r"\\gt(?![A-Za-z])", " > "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\langle|\\lgroup", "("),
        (r"\\rangle|\\rgroup", ")"),
        (r"\\varnothing|\\\{\s*\\\}", r"\\emptyset "),
        (r"(?<![A-Za-z\\])oo(?![A-Za-z])", r"\\infty "),
        (r"√\s*(?:\(([^()]*)\)|(\d+|[a-z]))", r"\\sqrt{\1\2}"),
        (r"\\text\s*\{\s*(\d[\d.,]*)\s+([A-Za-z][A-Za-z/ ]*)\}", r"\1\\text{ \2}"),
        (r"(?<=[0-9A-Fa-f])\s*(?:\\text\s*\{\s*base\s*\}|\bbase)\s*(\d{1,2})(?!\d)", r"_{\1}"),
        (r"(?<![A-Za-z\\\d.])(\d+\.?\d*)[eE]([+-]?\d+)(?![A-Za-z\d.])", r"\1\\times 10^{\2}"),
    )
)
_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)")
_COLUMN = re.compile(r"[(\[]?\\begin\{([pbvBV]?matrix|array)\}(?:\{c*\})?([^&]*?)(?:\\\\)?\s*\\end\{\1\}[)\]]?")
_OPEN_INTERVAL = re.compile(r"([\][])([^][(){}]+,[^][(){}]+)([\][])")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:\\times\s*10\^\{([+-]?\d+)\})?", re.ASCII)
_LONGEST_NUMBER = 300
_EXACT = Context(prec=2 * _LONGEST_NUMBER)
"""The default context rounds to 28 digits."""
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname|textit)\s*\{([^{}]*)\}")
_SPACED_THOUSANDS = re.compile(r"([+-]?)(\d{1,3}(?: \d{3})+)(\.\d+)?")
_TIGHT_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16,
}  # fmt: skip
_BASED = re.compile(rf"(-?)([0-9A-Fa-f]*[0-9][0-9A-Fa-f.]*)_\{{?\(?(?:base)?(\d{{1,2}}|{'|'.join(_BASES)})\)?\}}?")
_RELATION = re.compile(r"(<|>|\\leq?(?![A-Za-z])|\\geq?(?![A-Za-z])|<=|>=|\\leqslant|\\geqslant)")
_OPENING, _CLOSING = ("(", "[", "\\{"), (")", "]", "\\}")


class Kind(StrEnum):
    """Form of an answer, as far as it decides comparisons."""

    NUMBER = "number"
    BASED = "number in another base than ten"
    NAME = "several capital letters"
    DIGITS = "numbers side by side"
    TUPLE = "tuple"
    SET = "set"
    LIST = "list"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Normal:
    """A normalised answer."""

    text: str
    """LaTeX; the same for answers that differ only in notation."""
    kind: Kind


@lru_cache(4096)
def normalised(answer: str) -> Normal:
    """Normalises an answer. See `docs/answers.md` for the rules."""
    text = answer.strip().translate(_UNICODE)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _WRAPPED.sub(_unwrapped, _MIXED.sub(_mixed, text)).strip()
    if column := _COLUMN.fullmatch(text):
        entries = [entry.strip() for entry in re.split(r"\\\\(?:\[[^]]*\])?", column[2]) if entry.strip()]
        text = f"({', '.join(entries)})" if len(entries) > 1 else text
    if (interval := _OPEN_INTERVAL.fullmatch(text)) and (interval[1] == "]" or interval[3] == "["):
        # The notation ]a, b[ for open intervals.
        text = f"{'(' if interval[1] == ']' else '['}{interval[2]}{')' if interval[3] == '[' else ']'}"
    if thousands := _SPACED_THOUSANDS.fullmatch(text):
        text = f"{thousands[1]}{thousands[2].replace(' ', '')}{thousands[3] or ''}"
    text = _union(_without_thousands(text)).rstrip(".")
    # Spaces matter only between digits, and after a comma, which separates there and groups digits elsewhere.
    text = re.sub(r"(?<!\d)\s+(?!\d)|(?<=\d)\s+(?!\d)|(?<![\d,A-Za-z])\s+(?=\d)", "", text)
    text = re.sub(r"\s*,\s*", ", ", text)
    number = _number(text)
    if number is not None:
        return Normal(number, Kind.NUMBER)
    if based := _BASED.fullmatch(re.sub(r"\\[a-z]+\{([^{}]*)\}|\s", r"\1", text)):
        return _based(based)
    return Normal(text, _kind(text))


def decided(gold: Normal, answer: Normal) -> bool | None:
    """Whether two answers are equal, if the text decides; None if math-verify has to."""
    if gold.text == answer.text:
        return True
    kinds = {gold.kind, answer.kind}
    if kinds & {Kind.BASED, Kind.DIGITS}:
        return False
    if kinds in ({Kind.NUMBER}, {Kind.NAME}, {Kind.TUPLE, Kind.SET}, {Kind.TUPLE, Kind.LIST}):
        return False
    return None


def decimals(*texts: str) -> int:
    """Decimal places to which exact and decimal numbers are compared: six, or more for small decimals.

    Rounding to six places would make `0.0000001` equal to `0.0000002`, so at least six significant digits count.
    """
    places = 6
    for text in texts:
        for literal in re.findall(r"\d*\.\d+", text):
            if value := Decimal(literal):
                places = max(places, 5 - value.adjusted())
        for exponent in re.findall(r"10\^\{?-(\d{1,3})", text):
            places = max(places, 6 + int(exponent))
    return places


def _mixed(match: re.Match[str]) -> str:
    whole, above, below = match[1], match[2], match[3]
    return f"{whole}\\frac{{{above}}}{{{below}}}" if int(above) < int(below) else match[0]


def _unwrapped(match: re.Match[str]) -> str:
    r"""Keeps `\text` around letters that would otherwise be read as a formula."""
    inner = match[1].strip()
    return inner if re.fullmatch(r"[-+]?[\d.,]+|[A-Z]+|\(?[A-Z]\)?", inner) else match[0]


def _number(text: str) -> str | None:
    if not (match := _NUMBER.fullmatch(text)):
        return None
    if len(text) > _LONGEST_NUMBER:
        return None
    value, exponent = Decimal(text.partition("\\")[0]), int(match[1] or 0)
    if abs(exponent) + abs(value.adjusted()) >= 100:
        return None
    value = value.scaleb(exponent, _EXACT).normalize(_EXACT)
    return format(value if value else abs(value), "f")


def _based(match: re.Match[str]) -> Normal:
    sign, digits, base = match[1], match[2].upper().lstrip("0") or "0", match[3]
    written = _BASES.get(base) or int(base)
    if written == 10 and digits.replace(".", "").isdigit():
        return normalised(sign + digits)
    return Normal(f"{sign}{digits}_{{{written}}}", Kind.BASED)


def _kind(text: str) -> Kind:
    if re.fullmatch(r"[A-Z]{2,}", text):
        return Kind.NAME
    if re.fullmatch(r"[+-]?\d[\d.]*(?:\s+\d[\d.]*)+", text):
        return Kind.DIGITS
    commas = _commas(text)
    if 0 in commas:
        return Kind.LIST
    tokens = _tokens(text)
    # A single pair of brackets around everything: not (0, 9)\cup(9, 36).
    if 1 in commas and 0 not in list(accumulate(map(_step, tokens)))[:-1]:
        return {("(", ")"): Kind.TUPLE, ("\\{", "\\}"): Kind.SET}.get((tokens[0], tokens[-1]), Kind.OTHER)
    return Kind.OTHER


def _tokens(text: str) -> list[str]:
    return re.findall(r"\\[{}]|\\[A-Za-z]+|.", text, re.DOTALL)


def _step(token: str) -> int:
    """The token's change of the bracket depth."""
    return (token in _OPENING) - (token in _CLOSING)


def _commas(text: str) -> set[int]:
    """Bracket depths at which there are commas."""
    depth, found = 0, set[int]()
    for token in _tokens(text):
        depth += _step(token)
        if token == ",":
            found.add(depth)
    return found


def _without_thousands(text: str) -> str:
    """Joins `1,200` to `1200` outside of brackets; in brackets commas separate."""
    out, depth, outside = "", 0, ""
    for token in _tokens(text):
        change = _step(token)
        if change > 0 and depth == 0:
            out, outside = out + _joined(outside), ""
        if depth or change:
            out += token
        else:
            outside += token
        depth = max(0, depth + change)
    return out + _joined(outside)


def _joined(text: str) -> str:
    return _TIGHT_THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def _union(text: str) -> str:
    """Rewrites inequalities joined by `or` as a union of intervals, for math-verify; other texts are unchanged."""
    parts = re.split(r"\s*,?\s*\\text\{\s*or\s*\}\s*|\s*,?\s+or\s+|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])", text)
    intervals = [_interval(part.strip()) for part in parts]
    known = [interval for interval in intervals if interval is not None]
    return "\\cup ".join(known) if len(parts) > 1 and len(known) == len(parts) else text


def _interval(text: str) -> str | None:
    """An inequality in one variable as an interval; None for other texts."""
    parts = [part.strip() for part in _RELATION.split(text)]
    relations = ["<" if part in ("<", "\\lt") else ">" if part in (">", "\\gt") else part for part in parts[1::2]]
    if not relations:
        return None
    upward = [relation.startswith(("<", "\\le")) for relation in relations]
    ends, variables = parts[::2], [part for part in parts[::2] if re.fullmatch(r"[a-zA-Z]", part)]
    if len(variables) != 1 or len(set(upward)) != 1 or len(relations) > 2:
        return None
    if not upward[0]:
        ends, relations = ends[::-1], relations[::-1]
    place = ends.index(variables[0])
    if len(relations) == 2 and place != 1:
        return None
    low = "-\\infty" if place == 0 else ends[0]
    high = "\\infty" if place == len(ends) - 1 else ends[-1]
    left = "[" if place > 0 and relations[0] not in "<>" else "("
    right = "]" if place < len(ends) - 1 and relations[-1] not in "<>" else ")"
    return f"{left}{low},{high}{right}"
