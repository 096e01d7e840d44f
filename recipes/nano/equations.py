"""Reads the equations of grade-school solutions, and writes wrong ones.

A line of a GSM8K answer marks its calculation: `48/2 = <<48/2=24>>24 clips`. The mark gives the truth. What the model
must learn to read, though, is the text, so the expression is taken from the text in the text's own order wherever that
evaluates to the marked value, and from the mark elsewhere.
"""

from __future__ import annotations

import ast
import random
import re
from dataclasses import dataclass

MARK = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
NUMBER = re.compile(r"\d[\d,]*\.?\d*|\.\d+")
_TOKEN = re.compile(
    r"(?P<number>(?:\d[\d,]*\.?\d*|\.\d+))|(?P<percent>%)|(?P<op>[-+*/()×÷–−·]|\\times|\\div|\bx\b|\bX\b)|(?P<word>[^\W\d_]+)"
)
_OPERATORS = {"×": "*", "x": "*", "X": "*", "·": "*", "\\times": "*", "÷": "/", "\\div": "/", "–": "-", "−": "-"}
TOLERANCE = 0.01
"""A claimed value this close to the exact one is taken as right: grade-school solutions round to cents."""


@dataclass(frozen=True, slots=True)
class Equation:
    """One equation that a step states."""

    expression: str
    """Python, in the order of the text."""
    value: str
    """The claimed value, as digits."""
    span: tuple[int, int]
    """Position of the claimed value in the step's text."""
    operands: tuple[tuple[int, int], ...] = ()
    """Positions of the expression's numbers in the text; empty if the expression was taken from the mark."""

    @property
    def holds(self) -> bool:
        """Whether the claimed value is that of the expression."""
        exact = evaluate(self.expression)
        return exact is not None and abs(exact - float(self.value)) < TOLERANCE


def evaluate(expression: str) -> float | None:
    """The value of an arithmetic expression, or None when it is not one (or divides by zero)."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None
    try:
        return _value(tree.body)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left), _value(right)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
                case _:
                    pass
        case _:
            pass
    raise ValueError(f"not plain arithmetic: {ast.dump(node)}")


def clean_number(text: str) -> str:
    """`1,200.` -> `1200`, `.5` -> `0.5`, `007` -> `7`: a number that Python reads the way people do."""
    digits = text.replace(",", "").rstrip(".")
    whole, dot, rest = digits.partition(".")
    return (whole.lstrip("0") or "0") + (dot + rest if rest else "")


def read_expression(text: str, value: float) -> tuple[str, tuple[tuple[int, int], ...]] | None:
    """The expression at the end of `text` that evaluates to `value`, with the places of its numbers; None without one.

    Units and other words between the numbers are passed over, `40%` is read as `40/100`.
    """
    parts: list[tuple[str, str, tuple[int, int]]] = []
    for found in _TOKEN.finditer(text):
        kind = str(found.lastgroup)
        word = found.group()
        if kind == "number":
            parts.append(("number", clean_number(word), found.span()))
        elif kind == "percent" and parts and parts[-1][0] == "number":
            parts.append(("percent", "/100", found.span()))
        elif kind == "op":
            parts.append(("op", _OPERATORS.get(word, word), found.span()))
        elif kind == "word":
            parts.append(("word", word, found.span()))
    # An operator that no number or bracket follows belongs to a unit (`miles/hour`) or is a hyphen.
    kept: list[tuple[str, str, tuple[int, int]]] = []
    for index, part in enumerate(parts):
        if part[0] == "word":
            continue
        if part[0] == "op" and part[1] in "+-*/":
            following = parts[index + 1] if index + 1 < len(parts) else None
            if following is None or following[0] == "word":
                continue
        kept.append(part)
    starts = [index for index, part in enumerate(kept) if part[0] == "number"]
    best: tuple[str, tuple[tuple[int, int], ...]] | None = None
    for start in reversed(starts):
        for first in {start - 1, start} if start and kept[start - 1][1] == "(" else {start}:
            chosen = kept[first:]
            expression = "".join(part[1] for part in chosen)
            operands = tuple(part[2] for part in chosen if part[0] == "number")
            if not any(part[0] in ("op", "percent") for part in chosen):
                continue
            exact = evaluate(expression)
            if exact is not None and abs(exact - value) < TOLERANCE:
                best = (expression, operands)
        if best is None and len(starts) - starts.index(start) > 8:
            break
    return best


def parse_step(line: str) -> tuple[str, tuple[Equation, ...]] | None:
    """The text of a marked line without its marks, and the equations it states; None when they cannot be told.

    Lines that state an equation without a mark are read too, when the equation holds.
    """
    text = ""
    rest = line
    equations: list[Equation] = []
    while found := MARK.search(rest):
        text += rest[: found.start()]
        rest = rest[found.end() :]
        shown = NUMBER.match(rest)
        marked = NUMBER.fullmatch(found.group(2).strip())
        if shown is None or marked is None:
            return None
        value = clean_number(shown.group())
        if abs(float(value) - float(clean_number(marked.group()))) >= TOLERANCE:
            return None
        number = shown.group().rstrip(",.")
        span = (len(text), len(text) + len(number))
        equation = _equation(text, found.group(1), value, span)
        if equation is None:
            return None
        equations.append(equation)
    text += rest
    if not equations and "=" in text:
        found_equations = _unmarked(text)
        if found_equations is None:
            return None
        equations.extend(found_equations)
    return text, tuple(equations)


def _equation(before: str, marked: str, value: str, span: tuple[int, int]) -> Equation | None:
    left = re.sub(r"\s*=\s*[$€£]?\s*$", "", before)
    if left != before and (read := read_expression(left.rsplit("=", 1)[-1], float(value))):
        offset = len(left) - len(left.rsplit("=", 1)[-1])
        return Equation(read[0], value, span, tuple((a + offset, b + offset) for a, b in read[1]))
    expression = re.sub(NUMBER, lambda number: clean_number(number.group()), marked.replace(" ", ""))
    expression = expression.replace("%", "/100")
    equation = Equation(expression, value, span)
    return equation if equation.holds else None


def _unmarked(text: str) -> list[Equation] | None:
    equations: list[Equation] = []
    for sign in re.finditer(r"=\s*[$€£]?\s*(?=[\d.])", text):
        shown = NUMBER.match(text, sign.end())
        left = text[: sign.start()]
        offset = left.rfind("=") + 1
        if shown is None:
            return None
        number = shown.group().rstrip(",.")
        value = clean_number(number)
        read = read_expression(left[offset:], float(value))
        if read is None:
            return None
        operands = tuple((a + offset, b + offset) for a, b in read[1])
        equations.append(Equation(read[0], value, (shown.start(), shown.start() + len(number)), operands))
    return equations or None


def show_number(value: float, rng: random.Random | None = None) -> str:
    """A number as a solution writes it: no trailing zeros, at most two decimals, thousands with a comma at times."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    if rng is not None and abs(value) >= 1000 and rng.random() < 0.5:
        whole, dot, rest = text.partition(".")
        text = f"{int(whole):,}{dot}{rest}"
    return text


def wrong_value(equation: Equation, rng: random.Random) -> str | None:
    """A plausible wrong value for an equation: slips of a person or a model, well outside the rounding tolerance."""
    exact = float(equation.value)
    digits = equation.value.replace(".", "")
    whole, _, decimals = equation.value.partition(".")
    candidates: list[float] = []
    unit = 10 ** -len(decimals)
    candidates += [
        exact + rng.choice([-2, -1, 1, 2]) * max(unit, 0.1),
        exact + rng.choice([-1, 1]) * rng.randint(1, 10),
    ]
    candidates += [exact + rng.choice([-1, 1]) * 10 ** rng.randint(0, max(0, len(whole) - 1))]
    candidates += [round(exact * rng.uniform(0.5, 1.5), len(decimals)), exact * 10, exact / 10]
    position = rng.randrange(len(digits))
    replaced = digits[:position] + rng.choice("0123456789") + digits[position + 1 :]
    candidates.append(float(replaced) * unit)
    if len(digits) > 1:
        position = rng.randrange(len(digits) - 1)
        swapped = digits[:position] + digits[position + 1] + digits[position] + digits[position + 2 :]
        candidates.append(float(swapped) * unit)
    operators = [match.start() for match in re.finditer(r"[-+*/]", equation.expression)]
    if operators:
        place = rng.choice(operators)
        other = rng.choice([op for op in "+-*/" if op != equation.expression[place]])
        mistaken = evaluate(equation.expression[:place] + other + equation.expression[place + 1 :])
        # A slip of the operator is the most natural mistake; weigh it like three of the others.
        candidates += [mistaken] * 3 if mistaken is not None else []
    rng.shuffle(candidates)
    for candidate in candidates:
        shown = show_number(candidate)
        if candidate >= 0 and abs(float(shown) - exact) > 0.04 and float(shown) < 1e9:
            return show_number(candidate, rng) if exact >= 1000 else shown
    return None
