r"""Parses the step labels in a verification chain's prose, and assigns them to steps.

A chain goes through the steps, `Step 1: ... The step is \boxed{correct}`, and may stop at the first wrong one. Models
also wrap the word (`\boxed{\text{correct}}`), judge inline and then repeat the whole list, return to a step, label the
solution as a whole, or label nothing. A label therefore belongs to the step whose heading precedes it, and the last
label of a step counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_BOX = re.compile(
    r"\\boxed\s*\{\s*(?:\\(?:text|textbf|textit|mathrm|mathbf|mathit)\s*\{\s*)?(correct|incorrect)\s*\}", re.IGNORECASE
)
# A heading is at the start of a line, or after a sentence or label; "as step 2 shows" is not a heading.
_HEADING = re.compile(
    r"(?:^[ \t>*#_\-\d.)(]*|(?<=[.!?:}\])] )|(?<=[}$][,;] ))(?:\*\*|__)?step[ \t]+(\d{1,4})(?:\*\*|__)?[ \t]*"
    r"(?:[:.)—–-]|\*\*|$|(?=\([^()\n]*\)[ \t]*:)|(?=(?:is|was)[ \t]+\S{0,3}\\boxed))",
    re.IGNORECASE | re.MULTILINE,
)
# "step 1 is \\boxed{correct} and step 2 is ...": the label follows directly, so a clause may start anywhere.
_CLAUSE = re.compile(
    r"(?:^|(?<=[.!?:}\])$,;])|[ \t](?:and|but|while|whereas))[ \t]+(?P<step>step[ \t]+(\d{1,4})[ \t]+(?:is|was)[ \t]+"
    r"\S{0,3}\\boxed)",
    re.IGNORECASE | re.MULTILINE,
)
_WHOLE = re.compile(r"\b(solution|overall|final answer|proof|everything)\b", re.IGNORECASE)
_STEP = re.compile(r"\b(step|paragraph)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]\s|\n")

_LABEL = re.compile(
    r"\s*(?:#{1,6}[ \t]*)?(?P<open>\*\*|__)?[ \t]*step[ \t]+\d{1,4}[ \t]*(?:(?P<shut>\*\*|__)[ \t]*[:.)—–-]?"
    r"|[:.)—–-][ \t]*(?P<late>\*\*|__)?|(?=\n|$))[ \t]*",
    re.IGNORECASE,
)
_ENUMERATOR = re.compile(r"\s*(?:\(?(\d{1,4})[.)]|\[(\d{1,4})\])\s+")


class LabelKind(StrEnum):
    """A chain's label of a step."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    IMPLIED = "implied"
    """No label, after an earlier step labelled incorrect, where a chain may stop."""
    MISSING = "missing"
    """No label, without an earlier incorrect step."""


@dataclass(frozen=True, slots=True)
class WrittenLabel:
    """The label that one chain wrote for one step."""

    kind: LabelKind
    at: int | None = None
    """Position of the word in the chain's text; None without a label."""
    text: str = ""
    """The chain's text about this step, up to the label."""

    @property
    def value(self) -> int | None:
        """1 for correct; 0 for incorrect and implied; None without a label."""
        return {LabelKind.CORRECT: 1, LabelKind.MISSING: None}.get(self.kind, 0)


@dataclass(frozen=True, slots=True)
class _Box:
    step: int | None
    """1-based; None without a heading before it."""
    correct: bool
    at: int
    start: int
    """Start of the text about it."""
    end: int


def align_labels(text: str, steps: int) -> list[WrittenLabel]:
    """Assigns the labels in a chain to the steps of the solution.

    Args:
        text: the chain's text.
        steps: number of steps of the solution.

    Returns:
        One label per step. Labels of further steps are dropped. If the chain has no headings at all, its labels count
        in
                    order.
    """
    boxes = _boxes(text)
    if all(box.step is None for box in boxes):
        by_step = {number: [box] for number, box in enumerate(boxes[:steps], start=1)}
    else:
        by_step: dict[int, list[_Box]] = {}
        for box in boxes:
            if box.step is not None and 1 <= box.step <= steps:
                by_step.setdefault(box.step, []).append(box)
    labels: list[WrittenLabel] = []
    wrong = False
    for number in range(1, steps + 1):
        found = by_step.get(number)
        if found is None:
            labels.append(WrittenLabel(LabelKind.IMPLIED if wrong else LabelKind.MISSING))
            continue
        last = found[-1]
        passages = "\n".join(text[box.start : box.end].strip() for box in found)
        labels.append(WrittenLabel(LabelKind.CORRECT if last.correct else LabelKind.INCORRECT, last.at, passages))
        wrong = wrong or not last.correct
    return labels


def _boxes(text: str) -> list[_Box]:
    headings = [(match.start(), int(match[1])) for match in _HEADING.finditer(text)]
    headings += [(match.start("step"), int(match[2])) for match in _CLAUSE.finditer(text)]
    headings.sort()
    boxes: list[_Box] = []
    before = 0
    for match in _BOX.finditer(text):
        passed = [heading for heading in headings if heading[0] < match.start()]
        start, step = passed[-1] if passed else (0, None)
        if not _about_whole(text[max(before, start) : match.start()]):
            boxes.append(_Box(step, match[1].lower() == "correct", match.start(1), max(before, start), match.end()))
        before = match.end()
    return boxes


def _about_whole(lead: str) -> bool:
    """Whether the sentence before a label is about the solution rather than a step."""
    sentence = _SENTENCE_END.split(lead)[-1]
    return _WHOLE.search(sentence) is not None and _STEP.search(sentence) is None


def unlabelled(steps: Sequence[str]) -> list[str]:
    """Removes labels and normalises the layout of steps.

    Removes `Step k:` in any form (`**Step 1.**`, `## Step 1`), and enumerators such as `1.` or `(1)` if every step has
        the one with its number. Line ends become newlines, and white space at line ends is removed.
    """
    plain = [_tidy(step) for step in steps]
    plain = [_without_label(step) or step for step in plain]
    numbers = [_ENUMERATOR.match(step) for step in plain]
    if len(plain) > 1 and all(
        match is not None and int(match[1] or match[2]) == number for number, match in enumerate(numbers, start=1)
    ):
        plain = [step[match.end() :] or step for step, match in zip(plain, numbers, strict=True) if match is not None]
    return plain


def _tidy(step: str) -> str:
    lines = step.replace("\u00a0", " ").replace("\u200b", "").replace("\ufeff", "").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


def _without_label(step: str) -> str:
    match = _LABEL.match(step)
    if match is None:
        return step
    rest = step[match.end() :].lstrip()
    # `**Step 1: Title**`: the bold opened by the label is still open.
    if match["open"] and not match["shut"] and not match["late"]:
        rest = match["open"] + rest
    return rest
