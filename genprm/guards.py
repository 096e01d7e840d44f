r"""Format checks before a reward: the ways in which policies and attackers manipulate a judge.

    violation = find_violation(problem, steps)
    violation.rule      # Rule.REPEATED
    violation.detail    # 'steps 3, 4 and 5 only repeat what was said'

A guard checks only the surface. It catches cheap tricks (the judge's own tags, special tokens, invisible characters,
padding) and says what it found. It does not catch an argument that persuades the judge, so rewards are also gated by
the answer (`genprm.rewards`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """Format rules for solutions, named by their violation."""

    EMPTY = "empty"
    """There are no steps, or one of them is blank."""
    TOO_MANY_STEPS = "too_many_steps"
    LONG_STEP = "long_step"
    """One step is so long that its score says little."""
    LONG_SOLUTION = "long_solution"
    REPEATED = "repeated"
    """Too many steps only repeat the problem or an earlier step."""
    IMITATION = "imitation"
    """It contains what only the judge or its chat template writes: tags, special tokens, a verdict."""
    PLEA = "plea"
    """It tells the judge how to judge. English only."""
    HIDDEN = "hidden"
    """Invisible characters, or words that mix Latin with look-alike Cyrillic letters."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a solution violates."""

    rule: Rule
    detail: str
    """What was found, and where."""


@dataclass(frozen=True, slots=True)
class Guards:
    """Limits. The length limits suit solutions of school and competition mathematics."""

    max_steps: int = 64
    max_step_chars: int = 4_000
    max_chars: int = 32_000
    max_repeated: float = 0.25
    """Share of steps, in [0, 1], that may repeat earlier text; one may always."""
    imitation: bool = True
    """Refuse the judge's tags, special tokens, verdicts and pleas."""
    hidden: bool = True
    """Refuse invisible characters. Scripts that need them (Persian, joined emoji) need this off."""


_IMITATION = re.compile(
    r"</?\s*(?:analyze|verify|output|think|paragraph_?\d+)\s*>"  # GenPRM, reasoning models, ProcessBench's critics
    r"|<\s*[|｜][^|｜<>\n]{1,64}[|｜]\s*>|<(?:extra|reserved|unused)_?\d+>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>"
    r"|\[\s*code output\b|\\boxed\s*\{\s*(?:\\text\{)?\s*(?:yes|no|correct|incorrect)\s*\}"
    r"|\*\*\s*judgement\s*\*\*|\bis the (?:step|solution) correct\s*\?|\bstep[_ ]?tag\b|\bки\b",
    re.IGNORECASE,
)
_PLEA = re.compile(
    r"\b(?:ignore|disregard|forget) (?:all |any |the )*(?:previous|prior|above|earlier|preceding) "
    r"(?:instructions?|prompts?|text|messages?)\b"
    # Honest solutions say that a step or the solution is correct; paragraphs are what judges speak of.
    r"|\b(?:th(?:e|is|ese)|all|each|every|my) (?:"
    r"paragraphs? (?:above |below )?(?:is|are) (?:all |completely |entirely |fully |absolutely )?"
    r"|(?:steps?|solutions?|reasoning) (?:above|below) (?:is|are) (?:all |completely |entirely |fully |absolutely )?"
    r"|(?:steps?|solutions?|reasoning) (?:is|are) (?:all |completely |entirely |fully |absolutely )"
    r")(?:correct|right|valid|true)\b"
    r"|\b(?:dear|attention|note to|message to|hey|hello)\s+(?:the\s+)?(?:judge|grader|verifier|reviewer|evaluator)\b"
    r"|\b(?:output|answer with|say|respond with|reply with)\W+(?:yes|correct|1\.0)\b"
    r"|\b(?:output|answer with|say|respond with|reply with|return|give)\b[^.\n]{0,20}\bfull (?:score|marks|credit)\b",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\{)?\s*(\w+)\s*\}", re.IGNORECASE)
_OPPOSITES = {
    "yes": ("yes", "no"),
    "no": ("yes", "no"),
    **dict.fromkeys(("correct", "incorrect"), ("correct", "incorrect")),
}
"""Boxed words, and the reference answers to which they are an answer, right or wrong."""
_WORD = re.compile(r"[^\W\d_]+")
_LABEL = re.compile(r"^\W*step\s+\d+\W*")
_SPACE = re.compile(r"\s+")
_EMOJI = re.compile("(?<=[\u2190-\u2bff])\ufe0f")
"""The selector that makes an emoji of a sign, as models write after a check mark: one, after a sign."""
_SHORT = 12
"""Minimum length in characters for a step found in the problem to count as repeating it."""


def find_violation(
    problem: str, steps: Sequence[str], guards: Guards = Guards(), *, answer: str | None = None
) -> Violation | None:
    """The first rule that a solution violates; None if there is none.

    Args:
        problem: the question; steps may quote it.
        steps: the solution's steps.
        guards: the limits.
        answer: the reference answer: if it is yes or no, a boxed one is an answer, and not a verdict.
    """
    blank = next((index for index, step in enumerate(steps) if not visible(step).strip()), None)
    if not steps or blank is not None:
        return Violation(Rule.EMPTY, "there are no steps" if blank is None else f"step {blank} is blank")
    if len(steps) > guards.max_steps:
        return Violation(Rule.TOO_MANY_STEPS, f"{len(steps)} steps, and at most {guards.max_steps} are rewarded")
    longest = max(range(len(steps)), key=lambda index: len(steps[index]))
    if (length := len(steps[longest])) > guards.max_step_chars:
        limit = guards.max_step_chars
        return Violation(Rule.LONG_STEP, f"step {longest} has {length} characters, and at most {limit} are rewarded")
    if (total := sum(map(len, steps))) > guards.max_chars:
        return Violation(Rule.LONG_SOLUTION, f"{total} characters, and at most {guards.max_chars} are rewarded")
    if guards.hidden and (found := _hidden(problem, steps)):
        return found
    if guards.imitation and (found := _imitation(problem, steps, (answer or "").strip().casefold())):
        return found
    repeated = _repeated(problem, steps)
    if len(repeated) > max(1, guards.max_repeated * len(steps)):
        return Violation(Rule.REPEATED, f"steps {', '.join(map(str, repeated))} only repeat what was said")
    return None


def visible(text: str) -> str:
    """A text without invisible characters: format and control characters, tags, variation selectors."""
    return "".join(character for character in text if not _invisible(character))


def _invisible(character: str) -> bool:
    if character in "\n\t\r":
        return False
    category = unicodedata.category(character)
    # Braille blank and the Hangul fillers are letters by category, but invisible.
    return category in {"Cf", "Cc", "Co", "Cn"} or character in "⠀ㅤﾠᅟᅠ" or 0xFE00 <= ord(character) <= 0xFE0F


def _hidden(problem: str, steps: Sequence[str]) -> Violation | None:
    allowed = set(problem)
    for index, step in enumerate(steps):
        shown = _EMOJI.sub("", step)
        odd = next((c for c in shown if c not in allowed and _invisible(c)), None)
        if odd is not None:
            return Violation(Rule.HIDDEN, f"step {index} has the invisible character U+{ord(odd):04X}")
        for word in _WORD.findall(step):
            scripts = {unicodedata.name(c, "").partition(" ")[0] for c in word} & {"LATIN", "CYRILLIC"}
            if len(scripts) == 2 and word not in problem:
                return Violation(Rule.HIDDEN, f"step {index} mixes Latin and Cyrillic letters in {word!r}")
    return None


def _imitation(problem: str, steps: Sequence[str], answer: str) -> Violation | None:
    # Normalises full-width forms and the like; a tag may span two steps.
    text = unicodedata.normalize("NFKC", visible("\n\n".join(steps)))
    given = unicodedata.normalize("NFKC", visible(problem)).casefold()
    for rule, pattern in ((Rule.IMITATION, _IMITATION), (Rule.PLEA, _PLEA)):
        for match in pattern.finditer(text):
            boxed = _BOXED.fullmatch(match[0])
            if boxed is not None and answer in _OPPOSITES.get(boxed[1].casefold(), ()):
                continue
            if match[0].casefold() not in given:
                what = "writes what the judge writes" if rule is Rule.IMITATION else "tells the judge what to say"
                return Violation(rule, f"it {what}: {match[0]!r}")
    return None


def _repeated(problem: str, steps: Sequence[str]) -> list[int]:
    given = _plain(problem)
    seen: set[str] = set()
    repeated: list[int] = []
    for index, step in enumerate(steps):
        plain = _plain(step)
        if plain in seen or (len(plain) >= _SHORT and plain in given):
            repeated.append(index)
        seen.add(plain)
    return repeated


def _plain(text: str) -> str:
    """A text without case, label and white space, for comparison by content."""
    folded = unicodedata.normalize("NFKC", visible(text)).casefold()
    return _SPACE.sub(" ", _LABEL.sub("", folded)).strip(" .!")
