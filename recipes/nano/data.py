"""Training sequences for the built-in GenPRM: grade-school solutions whose equations are checked one by one.

Every sequence is one solution in the layout of GenPRM: a user turn and an assistant turn a step. In half of the
solutions one equation is wrong. What the model does not write at inference (the user's turns, the forced prefixes, the
executed output) is masked, and the segments are tokenised apart, exactly as the engine will see them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from equations import (
    MARK,
    NUMBER,
    Equation,
    clean_number,
    evaluate,
    parse_step,
    read_expression,
    show_number,
    wrong_value,
)
from tokenizers import Tokenizer

from genprm import prompts

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT, PAD = "<｜User｜>", "<｜Assistant｜>", "<｜▁pad▁｜>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '" + USER + "' + message['content'] }}"
    "{% else %}{{ '" + ASSISTANT + "' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)
IGNORE = -100
HELD_OUT = 500
Rows = list[tuple[str, list[str]]]
CLAIM, NO_CLAIM = "The paragraph says ", "The paragraph has no calculation to check."
ALL_TRUE, ONE_FALSE = (
    "Every check is True, so the paragraph is correct.",
    "A check is False, so the paragraph is wrong.",
)
NOTHING = "There is nothing to compute, so the paragraph is correct."
PHRASES = (
    CLAIM,
    NO_CLAIM,
    ALL_TRUE,
    ONE_FALSE,
    NOTHING,
    "value = ",
    "\nprint(value, abs(value - ",
    ") < 0.01)",
    'print("nothing to check")',
    " = ",
)
"""Fixed phrases of the built-in judge."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a solution: its text, and the equations it states, each right or wrong."""

    text: str
    equations: tuple[Equation, ...]

    @property
    def correct(self) -> bool:
        """Whether all of its equations hold."""
        return all(equation.holds for equation in self.equations)


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text of one assistant turn, and whether the model writes it."""

    text: str
    learned: bool


def read_gsm8k(path: Path) -> list[tuple[str, list[str]]]:
    """The problems of a GSM8K file, each with the marked lines of its answer (without the `####` line)."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        (
            row["question"].strip(),
            [line.strip() for line in row["answer"].split("\n####")[0].split("\n") if line.strip()],
        )
        for row in rows
    ]


def split_rows(rows: Rows, seed: int = 0) -> tuple[Rows, Rows]:
    """Training rows and the `HELD_OUT` rows that no training run sees; the same split for every caller."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    return shuffled[HELD_OUT:], shuffled[:HELD_OUT]


def to_step(line: str) -> Step:
    """A marked line as a step. What cannot be read as arithmetic (algebra, fractions as values) states no equation."""
    parsed = parse_step(line)
    if parsed is None:
        return Step(MARK.sub("", line), ())
    text, equations = parsed
    numbers = {clean_number(found.group()) for found in NUMBER.finditer(text)}
    readable = all(
        re.search(r"[-+*/]", equation.expression)
        and (equation.operands or {found.group() for found in NUMBER.finditer(equation.expression)} <= numbers)
        for equation in equations
    )
    return Step(text, equations if readable else ())


def renumber(step: Step, rng: random.Random) -> Step:
    """The same sentence over other numbers, so that the model learns to read equations rather than to know them."""
    if len(step.equations) != 1 or not step.equations[0].operands:
        return step
    equation = step.equations[0]
    if max(end for _, end in equation.operands) > equation.span[0]:
        return step
    text = step.text
    for start, end in reversed(equation.operands):
        old = text[start:end]
        shown = old.rstrip(",.")
        new = _other_number(shown, rng)
        text = text[:start] + new + old[len(shown) :] + text[end:]
    shift = len(text) - len(step.text)
    start, end = equation.span[0] + shift, equation.span[1] + shift
    left = re.sub(r"\s*=\s*[$€£]?\s*$", "", text[:start]).rsplit("=", 1)[-1]
    expression = _expression_like(left, equation)
    exact = evaluate(expression) if expression else None
    if (
        expression is None
        or exact is None
        or not 0 <= exact < 1e8
        or (abs(exact - round(exact, 2)) > 1e-9 and rng.random() < 0.7)
    ):
        return step
    shown = show_number(exact, rng)
    value = clean_number(shown)
    text = text[:start] + shown + text[end:]
    fresh = Equation(expression, value, (start, start + len(shown)))
    return Step(text, (fresh,)) if fresh.holds else step


def _other_number(old: str, rng: random.Random) -> str:
    digits = clean_number(old)
    if rng.random() < 0.15:
        return old
    if "." in digits:
        whole, _, decimals = digits.partition(".")
        new = f"{rng.randint(0, 10 ** len(whole) - 1)}.{''.join(rng.choice('0123456789') for _ in decimals[:3])}"
        return new if float(new) > 0 else old
    length = max(1, len(digits) + rng.choice([-1, 0, 0, 0, 0, 1]))
    if length > 2 and digits.endswith("0"):
        return show_number(float(rng.randint(1, 99) * 10 ** (length - 2)), rng)
    return show_number(float(rng.randint(max(1, 10 ** (length - 1)), 10**length - 1)), rng)


def _expression_like(left: str, equation: Equation) -> str | None:
    """The expression at the end of `left` with as many numbers as `equation` has."""
    count = len(equation.operands)
    # Reading needs a value to know how far to the left the expression goes; try what each length gives.
    pattern = re.sub(r"\d[\d.]*", "N", re.sub(r"/100", "%", equation.expression))
    found = list(NUMBER.finditer(left))[-count:]
    if len(found) < count or pattern.count("N") != count:
        return None
    expression = pattern
    for number in found:
        expression = expression.replace("N", clean_number(number.group()), 1)
    expression = expression.replace("%", "/100")
    exact = evaluate(expression)
    if exact is None:
        return None
    read = read_expression(left, exact)
    return expression if read is not None and read[0] == expression else None


def corrupt(step: Step, rng: random.Random) -> Step | None:
    """The step with one of its equations given a wrong value; None where there is none to change."""
    if not step.equations:
        return None
    index = rng.randrange(len(step.equations))
    equation = step.equations[index]
    wrong = wrong_value(equation, rng)
    if wrong is None:
        return None
    start, end = equation.span
    text = step.text[:start] + wrong + step.text[end:]
    changed = Equation(equation.expression, clean_number(wrong), (start, start + len(wrong)), equation.operands)
    equations = list(step.equations)
    equations[index] = changed
    return None if changed.holds else Step(text, tuple(equations))


def join_steps(first: Step, second: Step) -> Step:
    """Two steps as one paragraph."""
    return Step(f"{first.text} {second.text}", first.equations + second.equations)


def assistant_turn(paragraph: int, step: Step, with_code: bool) -> list[Segment]:
    """What the built-in judge is taught to say about a step, cut where the engine's calls are cut."""
    claims = [f"{equation.expression} = {equation.value}" for equation in step.equations]
    analysis = f"{CLAIM}{' and '.join(claims)}." if claims else NO_CLAIM
    verdict = f"{{{'Yes' if step.correct else 'No'}}}$\n</output>\n"
    segments = [Segment(prompts.render("genprm/analyze", paragraph=paragraph), False)]
    segments.append(Segment(f"{analysis}\n</analyze>\n", True))
    if not with_code:
        return [*segments, Segment(prompts.render("genprm/output"), False), Segment(verdict, True)]
    lines: list[str] = []
    outputs: list[str] = []
    for equation in step.equations:
        lines += [f"value = {equation.expression}", f"print(value, abs(value - {equation.value}) < 0.01)"]
        exact = eval(equation.expression, {"__builtins__": {}})
        outputs.append(f"{exact} {abs(exact - float(equation.value)) < 0.01}")
    if not claims:
        lines, outputs = ['print("nothing to check")'], ["nothing to check"]
        remark = NOTHING
    elif step.correct:
        remark = ALL_TRUE
    else:
        remark = ONE_FALSE
    segments.append(Segment(prompts.render("genprm/verify"), False))
    segments.append(Segment("\n".join(lines) + "\n```\n", True))
    segments.append(Segment(prompts.render("genprm/code_output", output="\n".join(outputs)), False))
    closing = f"{remark}\n</verify>\n{prompts.render('genprm/output')}{verdict}"
    return [*segments, Segment(closing, True)]


def solutions(rows: list[tuple[str, list[str]]], epochs: int, seed: int) -> Iterator[tuple[str, list[Step], bool]]:
    """Fresh variants of the rows, epoch after epoch: problem, steps, and whether code is written."""
    rng = random.Random(seed)
    for _ in range(epochs):
        order = list(rows)
        rng.shuffle(order)
        for problem, lines in order:
            steps = [to_step(line) for line in lines]
            if rng.random() < 0.5:
                steps = [renumber(step, rng) for step in steps]
            if len(steps) > 1 and rng.random() < 0.15:
                at = rng.randrange(len(steps) - 1)
                steps[at : at + 2] = [join_steps(steps[at], steps[at + 1])]
            wrong = [index for index, step in enumerate(steps) if step.equations]
            if wrong and rng.random() < 0.5:
                index = rng.choice(wrong)
                steps[index] = corrupt(steps[index], rng) or steps[index]
            if rng.random() < 0.2:
                numbers = NUMBER.findall(steps[-1].text)
                answer = numbers[-1].rstrip(",.") if numbers else "0"
                steps.append(Step(rng.choice(["The answer is {}.", "So the answer is {}.", "{}"]).format(answer), ()))
            if rng.random() < 0.1:
                steps = [_labelled(step, k + 1) for k, step in enumerate(steps)]
            with_code = rng.random() < 0.7
            # A step contains its arithmetic: sequences without the problem, or with only one step, are cheaper
            # and teach the same reading.
            kind = rng.random()
            if kind < 0.5:
                problem = ""
            if kind < 0.2:
                steps = [rng.choice(steps)]
            yield problem, steps, with_code


def _labelled(step: Step, k: int) -> Step:
    label = f"Step {k}: "
    return Step(label + step.text, step.equations)


def encode(tokenizer: Tokenizer, problem: str, steps: list[Step], with_code: bool) -> tuple[list[int], list[int]]:
    """Token ids and labels of one sequence; labels are -100 where the model does not write."""

    def special(token: str) -> int:
        found = tokenizer.token_to_id(token)
        assert found is not None, token
        return found

    def text_ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    ids = [special(BOS), *text_ids(prompts.render("genprm/system"))]
    labels = [IGNORE] * len(ids)
    for index, step in enumerate(steps):
        user = prompts.render("genprm/first_turn", problem=problem, step=step.text) if index == 0 else step.text
        turn = [special(USER), *text_ids(user), special(ASSISTANT)]
        ids += turn
        labels += [IGNORE] * len(turn)
        for segment in assistant_turn(index + 1, step, with_code):
            piece = text_ids(segment.text)
            ids += piece
            labels += piece if segment.learned else [IGNORE] * len(piece)
        ids.append(special(EOS))
        labels.append(special(EOS))
    return ids, labels
