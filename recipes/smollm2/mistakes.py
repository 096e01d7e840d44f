"""Right and wrong solutions of grade-school problems, in the wordings that models use, with the truth about each step.

A problem of GSM8K marks its calculations. The marks say what each step needs; a mistake changes what the step does and
leaves what it needs as it was: another operand or operation, a step left out, an answer given too early, a percentage
taken wrong, a slip in the sum. The code of a critique computes what is needed, never what the step says.
"""

from __future__ import annotations

import random
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "nano"))

from data import to_step
from equations import (
    MARK,
    NUMBER,
    TOLERANCE,
    Equation,
    clean_number,
    evaluate,
    show_number,
    wrong_value,
)

LONGEST = 3
"""Equations of a step that are checked; steps with more are left out."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One value that a step states, and the expression that gives the value which the problem asks for there."""

    needed: str
    said: str

    @property
    def holds(self) -> bool:
        """Whether the value is the one that is needed."""
        exact = evaluate(self.needed)
        return exact is not None and abs(exact - float(self.said)) < TOLERANCE


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it will be shown, and what it claims."""

    text: str
    claims: tuple[Claim, ...]
    spans: tuple[tuple[int, int, int, int], ...] = ()
    """(claims, 4) where each equation stands in the text: its first operand, its last one's end, its value's limits."""

    @property
    def correct(self) -> bool:
        """Whether every value is the one that is needed."""
        return all(claim.holds for claim in self.claims)


def read_solution(lines: list[str]) -> list[tuple[str, tuple[Equation, ...]]] | None:
    """The steps of a marked answer with their equations; None where a line cannot be read with certainty."""
    steps: list[tuple[str, tuple[Equation, ...]]] = []
    for line in lines:
        step = to_step(line)
        if (not step.equations and (MARK.search(line) or "=" in line)) or len(step.equations) > LONGEST:
            return None
        if any(not equation.holds for equation in step.equations):
            return None
        steps.append((step.text, step.equations))
    return steps if any(equations for _, equations in steps) else None


def right_step(text: str, equations: tuple[Equation, ...]) -> Step:
    """A step as it is."""
    spans = tuple(
        (min(e.operands)[0], max(end for _, end in e.operands), *e.span) if e.operands else (-1, -1, *e.span)
        for e in equations
    )
    return Step(text, tuple(Claim(e.expression, e.value) for e in equations), spans)


def _nice(value: float | None, like: float) -> bool:
    """Whether a solution would state this value: positive, not much finer than what stands in its place."""
    if value is None or not 0 < value < 1e7:
        return False
    whole = abs(like - round(like)) < 1e-9
    return abs(value - round(value, 0 if whole and random.random() < 0.8 else 2)) < 1e-6


def _with(text: str, equation: Equation, expression: str, edits: list[tuple[int, int, str]]) -> Step | None:
    """The step after its operands or operators were edited and its sum done again; None where nothing is wrong then."""
    value, exact = evaluate(expression), evaluate(equation.expression)
    if value is None or exact is None or abs(value - exact) < 0.04 or not _nice(value, exact):
        return None
    said = show_number(value)
    if abs(float(said) - exact) < 0.04:
        return None
    for start, end, new in sorted([*edits, (*equation.span, said)], reverse=True):
        text = text[:start] + new + text[end:]
    shift = sum(len(new) - (end - start) for start, end, new in edits if start < equation.span[0])
    span = (equation.span[0] + shift, equation.span[0] + shift + len(said))
    low = min(equation.operands)[0]
    high = span[0]
    return Step(text, (Claim(equation.expression, said),), ((low, high, *span),))


def wrong_operand(text: str, equation: Equation, others: list[str], rng: random.Random) -> Step | None:
    """One number of the equation taken from another place."""
    numbers = list(NUMBER.finditer(equation.expression))
    if not equation.operands or len(numbers) != len(equation.operands):
        return None
    at = rng.randrange(len(numbers))
    for other in rng.sample(others, len(others)):
        number = clean_number(other)
        if number == numbers[at].group():
            continue
        expression = equation.expression[: numbers[at].start()] + number + equation.expression[numbers[at].end() :]
        start, end = equation.operands[at]
        old = text[start:end]
        made = _with(text, equation, expression, [(start, end, number + old[len(old.rstrip(",.")) :])])
        if made is not None:
            return made
    return None


_OPERATOR = re.compile(r"(?<=[\d\s)a-z%$.])\s*([-+*/×÷x])\s*(?=[\s$(.\d])")


def wrong_operation(text: str, equation: Equation, rng: random.Random) -> Step | None:
    """Another operation on the same numbers."""
    numbers = list(NUMBER.finditer(equation.expression))
    if len(numbers) != len(equation.operands) or len(numbers) < 2:
        return None
    at = rng.randrange(len(numbers) - 1)
    between = equation.expression[numbers[at].end() : numbers[at + 1].start()]
    gap = (equation.operands[at][1], equation.operands[at + 1][0])
    shown = list(re.finditer(r"[-+*/×÷x]", text[gap[0] : gap[1]]))
    if between not in {"+", "-", "*", "/"} or len(shown) != 1:
        return None
    place = gap[0] + shown[0].start()
    for new in rng.sample("+-*/", 4):
        if new == between:
            continue
        start = numbers[at].end()
        made = _with(
            text,
            equation,
            equation.expression[:start] + new + equation.expression[start + 1 :],
            [(place, place + 1, new)],
        )
        if made is not None:
            return made
    return None


def slip(text: str, equation: Equation, rng: random.Random) -> Step | None:
    """The sum done wrong."""
    wrong = wrong_value(equation, rng)
    if wrong is None:
        return None
    start, end = equation.span
    low = min(equation.operands)[0] if equation.operands else -1
    text = text[:start] + wrong + text[end:]
    return Step(text, (Claim(equation.expression, clean_number(wrong)),), ((low, start, start, start + len(wrong)),))


def left_out(steps: list[tuple[str, tuple[Equation, ...]]], rng: random.Random) -> tuple[list[Step], Step] | None:
    """A step that is left out: a later one takes one of its numbers where it needs its value."""
    places = [
        (early, late)
        for early in range(len(steps) - 1)
        for late in range(early + 1, len(steps))
        if len(steps[early][1]) == 1
        and len(steps[late][1]) == 1
        and steps[late][1][0].operands
        and steps[early][1][0].value in [m.group() for m in NUMBER.finditer(steps[late][1][0].expression)]
    ]
    rng.shuffle(places)
    for early, late in places:
        (missing,), (text, (equation,)) = steps[early][1], steps[late]
        numbers = list(NUMBER.finditer(equation.expression))
        if len(numbers) != len(equation.operands):
            continue
        at = [m.group() for m in numbers].index(missing.value)
        inputs = [m.group() for m in NUMBER.finditer(missing.expression) if m.group() != missing.value]
        if not inputs:
            continue
        number = rng.choice(inputs)
        start, end = equation.operands[at]
        old = text[start:end]
        put = equation.expression[: numbers[at].start()], equation.expression[numbers[at].end() :]
        made = _with(text, equation, put[0] + number + put[1], [(start, end, number + old[len(old.rstrip(",.")) :])])
        if made is None:
            continue
        full = f"{put[0]}({missing.expression}){put[1]}"
        before = [right_step(*step) for index, step in enumerate(steps[:late]) if index != early]
        return before, replace(made, claims=(Claim(full, made.claims[0].said),))
    return None


GIVENS = (
    "We know that {}",
    "According to the problem, {}",
    "We are given that {}",
    "First, note that {}",
    "The problem states: {}",
    "From the problem: {}",
)


def _sentence(problem: str, rng: random.Random) -> tuple[str, list[re.Match[str]]] | None:
    """A sentence of the problem that states numbers, and where they stand."""
    said = [s for s in re.split(r"(?<=[.!])\s+", problem) if s.endswith(".") and len(s) < 160]
    found = [(s, list(NUMBER.finditer(s))) for s in said]
    found = [(s, numbers) for s, numbers in found if 0 < len(numbers) <= LONGEST]
    return rng.choice(found) if found else None


def _given(sentence: str, rng: random.Random) -> str:
    lead = rng.choice(GIVENS)
    name = re.match(r"[A-Z][a-z]*('s)? [a-z]", sentence)
    small = re.match(r"(The|A|An|He|She|It|They|There|If|In|Each|Every|On|For|At) ", sentence)
    return lead.format(sentence[:1].lower() + sentence[1:] if small and name and ":" not in lead else sentence)


def restated(problem: str, rng: random.Random) -> Step | None:
    """A step that repeats what the problem gives."""
    found = _sentence(problem, rng)
    if found is None:
        return None
    numbers = tuple(clean_number(m.group()) for m in found[1])
    return Step(_given(found[0], rng), tuple(Claim(n, n) for n in numbers))


def misread(problem: str, rng: random.Random) -> Step | None:
    """A step that repeats what the problem gives, with another number."""
    found = _sentence(problem, rng)
    if found is None:
        return None
    sentence, numbers = found
    at = rng.randrange(len(numbers))
    right = [clean_number(m.group()) for m in numbers]
    old = float(right[at])
    others = [float(clean_number(m)) for m in NUMBER.findall(problem)] + [old * 10, old + 1, old * 2, old - 1]
    others = [value for value in others if value > 0 and abs(value - old) > 0.04]
    if not others:
        return None
    said = show_number(rng.choice(others))
    sentence = sentence[: numbers[at].start()] + said + sentence[numbers[at].end() :]
    claims = tuple(Claim(n, said if k == at else n) for k, n in enumerate(right))
    return Step(_given(sentence, rng), claims)


ANSWERS = (
    "Therefore, the answer is {}.",
    "So the answer is {}.",
    "Thus, the final answer is {}.",
    "The final answer is: {}",
    "Hence, the total is {}.",
    "Therefore, the result we were looking for is {}.",
    "Answer: {}",
    "The answer is {}.",
    "Therefore, the final answer is {}.",
    "**Answer:** {}",
    "This means the answer to the question is {}.",
    "In conclusion, we get {}.",
)
INTROS = (
    "Let's break down the problem step by step.",
    "To solve this problem, we need to follow these steps:",
    "First, let's look at what we are given in the problem.",
    "To find the answer, we work through the information step by step.",
    "Let's think about this step by step, starting with what we know.",
    "Let's solve this step by step:",
    "To determine the answer, we need to consider each part of the problem.",
    "We can solve this problem by breaking it into smaller parts.",
    "Sure, let's work through it.",
    "## Solution",
)
LEADS = ("First, ", "Next, ", "Then, ", "Now, ", "After that, ", "Finally, ")
BRIDGES = (
    "We calculate the next value as follows: ",
    "Let's calculate this. ",
    "Now we can work out the following. ",
    "From the given information, ",
    "To do this, we use the numbers above. ",
)


def answer_step(needed: str, said: str, rng: random.Random, *, latex: bool) -> Step:
    """A step that gives the answer."""
    shown = (
        f"$\\boxed{{{said}}}$" if latex and rng.random() < 0.8 else f"\\boxed{{{said}}}" if rng.random() < 0.4 else said
    )
    return Step(rng.choice(ANSWERS).format(shown), (Claim(needed, said),))


def too_early(
    steps: list[tuple[str, tuple[Equation, ...]]], rng: random.Random, *, latex: bool
) -> tuple[list[Step], Step] | None:
    """The answer given before the last sums were done."""
    if len(steps) < 2 or not steps[-1][1] or not steps[-2][1]:
        return None
    said, last = steps[-2][1][-1].value, steps[-1][1][-1]
    if abs(float(said) - float(last.value)) < 0.04:
        return None
    needed = last.expression
    return [right_step(*step) for step in steps[:-1]], answer_step(needed, said, rng, latex=latex)


def mistaken(
    problem: str, steps: list[tuple[str, tuple[Equation, ...]]], rng: random.Random, *, latex: bool
) -> list[Step] | None:
    """The solution up to and with its first mistake."""
    kind = rng.choices(
        ("slip", "operand", "operation", "left out", "early", "answer"), (0.26, 0.27, 0.22, 0.12, 0.08, 0.05)
    )[0]
    if kind == "left out":
        found = left_out(steps, rng)
        return [*found[0], found[1]] if found else None
    if kind == "early":
        found = too_early(steps, rng, latex=latex)
        return [*found[0], found[1]] if found else None
    values = [e.value for _, equations in steps for e in equations]
    if kind == "answer":
        others = [v for v in [*values, *map(clean_number, NUMBER.findall(problem))] if v != values[-1]]
        if not others or abs(float(other := rng.choice(others)) - float(values[-1])) < 0.04:
            return None
        return [*(right_step(*s) for s in steps), answer_step(values[-1], other, rng, latex=latex)]
    places = [k for k, (_, equations) in enumerate(steps) if len(equations) == 1]
    if not places:
        return None
    at = rng.choice(places)
    text, (equation,) = steps[at]
    known = [clean_number(n) for n in NUMBER.findall(problem)]
    known += [e.value for _, equations in steps[:at] for e in equations]
    others = [n for n in dict.fromkeys(known) if float(n) > 0]
    made = {
        "slip": lambda: slip(text, equation, rng),
        "operand": lambda: wrong_operand(text, equation, others, rng),
        "operation": lambda: wrong_operation(text, equation, rng),
    }[kind]()
    return [*(right_step(*s) for s in steps[:at]), made] if made is not None else None


_WORDS = {
    "*": (" times ", " multiplied by ", " × ", " \u00d7 ", " x ", " * "),
    "/": (" divided by ", " ÷ ", " / "),
    "+": (" plus ", " + ", " added to "),
    "-": (" minus ", " - "),
}


def in_words(step: Step, expressions: list[str], rng: random.Random) -> Step:
    """The step with its equations written in words, or with other signs."""
    text = step.text
    for (low, _, start, end), shown in sorted(zip(step.spans, expressions, strict=True), reverse=True):
        if low < 0 or not shown:
            continue
        put = re.sub(r"(?<=[\d)])[-+*/]", lambda op: rng.choice(_WORDS[op.group()]), shown)
        equals = rng.choice((" = ", " equals ", " is ", ", which is ", ", which gives ", " is equal to "))
        text = text[:low] + put + equals + text[start:end] + text[end:]
    return replace(step, text=text, spans=())


_LATEX_OPERATORS = {"*": r" \times ", "/": r" \div ", "+": " + ", "-": " - "}


def latex_of(expression: str, rng: random.Random) -> str:
    """An expression as LaTeX."""
    simple = re.fullmatch(r"([\d.]+)/([\d.]+)", expression)
    if simple and rng.random() < 0.6:
        return rf"\frac{{{simple[1]}}}{{{simple[2]}}}"
    percent = re.sub(r"(?<![\d.])([\d.]+)/100(?!\d)", r"\1\\%", expression) if rng.random() < 0.5 else expression
    return re.sub(r"[-+*/]", lambda op: _LATEX_OPERATORS[op.group()], percent)


def to_latex(step: Step, expressions: list[str], rng: random.Random, style: str) -> Step:
    """The step with each equation that is read from its text set in LaTeX.

    Args:
        step: what is shown.
        expressions: of its equations, as the step has them (not as they should be).
        rng: chooses.
        style: the brackets, `\\( \\)` for example, with `@` for what stands between.
    """
    text = step.text
    for (low, _, start, end), shown in sorted(zip(step.spans, expressions, strict=True), reverse=True):
        if low < 0 or not shown:
            continue
        value = text[start:end]
        money = low > 0 and text[low - 1] == "$"
        unit = re.match(r" ([a-z]+)", text[end:])
        if money:  # "$3*5=$15" is written with its sign inside, or without
            low -= 1
            value = rf"\${value}" if rng.random() < 0.5 else value
        elif unit and rng.random() < 0.4:
            value, end = rf"{value} \text{{ {unit[1]}}}", end + len(unit[0])
        put = rf"{latex_of(shown, rng)} = {value}"
        text = text[:low] + style.replace("@", put) + text[end:]
    return replace(step, text=text, spans=())
