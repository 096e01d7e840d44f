"""Checks whether a rationale's code supports its verdict, to drop right labels with wrong reasons. Pure.

It detects two faults, and only clear cases:

* The executed output contradicts the verdict: an equality check printed False, or an assertion failed, and the step is
called correct; or the output says that the step is right and it is called wrong, or the reverse.
* The code is idle: the step has a calculation, and the code computes nothing with any number of the step.

If all checks print True, this does not contradict a step called wrong: a correct calculation can answer the wrong
question.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

_RUN = re.compile(r"```python\n(.*?)```\s*(?:\[Code Output\]\s*```\n(.*?)\n?```)?", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")
_CALCULATION = re.compile(
    r"\d[^\n]*?(?:[=+*/^<>≤≥]|(?<=[\s\d])[-−×·÷](?=[\s\d])|\\(?:d?frac|times|cdot|div|sqrt|le|ge))"
)
_FALSE = re.compile(r"\bFalse\b")
_BAD = re.compile(
    r"\b(?:incorrect|wrong|mismatch|inconsistent|not correct|not equal|does(?: not|n't) (?:match|hold|equal))\b", re.I
)
_GOOD = re.compile(r"\b(?:correct|matches|consistent)\b", re.I)
_EQUALITIES = {"isclose", "allclose", "equals", "array_equal"}
_SHOWS = {"print", "str", "repr", "format", "round"}


@dataclass(frozen=True, slots=True)
class Run:
    """A code block of a rationale, and its output."""

    source: str
    output: str | None
    """None if the block was not run."""


def runs_of(verification: str) -> list[Run]:
    """The code blocks of a rationale in order."""
    return [Run(source, output) for source, output in _RUN.findall(verification)]


def contradicts(verification: str, *, correct: bool) -> bool:
    """Whether the code's output contradicts the verdict on the step.

    Args:
        verification: the rationale's verification, with the output of every block.
        correct: whether the step is called right.
    """
    runs = [run for run in runs_of(verification) if run.output]
    if not runs:
        return False
    # A later block may correct an earlier one, so the last one counts.
    source, output = runs[-1].source, runs[-1].output or ""
    bad, good = bool(_BAD.search(output)), bool(_GOOD.search(_BAD.sub("", output)))
    if bad != good and bad is correct:
        return True
    return correct and ("AssertionError" in output or (bool(_FALSE.search(output)) and _only_equalities(source)))


def idle(step: str, verification: str) -> bool:
    """Whether a step has a calculation, but no block of its rationale computes anything with a number of the step."""
    if not _CALCULATION.search(step):
        return False
    numbers = {value for text in _NUMBER.findall(step) if (value := _value(text.replace(",", ""))) is not None}
    return not any(_computes(run.source, numbers) for run in runs_of(verification))


def _only_equalities(source: str) -> bool:
    """Whether every truth value that the code can print comes from an equality."""
    tree = _parse(source)
    if tree is None:
        return False
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    calls = [name for node in ast.walk(tree) if isinstance(node, ast.Call) for name in [_name(node)]]
    equal = [check for check in checks if all(isinstance(op, ast.Eq) for op in check.ops)]
    close = [name for name in calls if name in _EQUALITIES]
    other = [name for name in calls if name.startswith(("is", "has")) and name not in (*_EQUALITIES, "isinstance")]
    negated = any(isinstance(node, ast.Not) for node in ast.walk(tree))
    return bool(equal or close) and len(equal) == len(checks) and not other and not negated


def _computes(source: str, numbers: set[float]) -> bool:
    tree = _parse(source)
    if tree is None:
        return False
    nodes = list(ast.walk(tree))
    works = any(
        isinstance(node, ast.BinOp | ast.AugAssign | ast.Compare)
        or (isinstance(node, ast.Call) and _name(node) not in _SHOWS)
        for node in nodes
    )
    return works and (not numbers or not numbers.isdisjoint(_constants(nodes)))


def _constants(nodes: list[ast.AST]) -> Iterator[float]:
    for node in nodes:
        if isinstance(node, ast.Constant):
            if isinstance(node.value, int | float) and not isinstance(node.value, bool):
                yield float(node.value)
            elif isinstance(node.value, str):
                # Expressions may be parsed: sympify("3*x + 1").
                yield from (value for text in _NUMBER.findall(node.value) if (value := _value(text)) is not None)


def _name(call: ast.Call) -> str:
    function = call.func
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def _parse(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(text: str) -> float | None:
    try:
        return float(text)
    except (ValueError, OverflowError):
        return None
