r"""Verification chains for ThinkPRM: one text about a whole solution, with a label after each step.

ThinkPRM, arXiv 2504.16828, section 3.1: a teacher writes several chains about a labelled prefix, `Step 1: ... The step
is \boxed{correct}`, and stops at the first incorrect step. A chain is kept when its labels match the known ones up to
the first wrong step (process-based filter). The outcome-based filter, for comparison, asks only whether the chain
finds any wrong step where there is one. A prefix ends with the first wrong step, as labels do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from genprm import prompts
from genprm.data.word_problems import find_problem, first_error, read_equations
from genprm.engines.base import Engine, Sampling
from genprm.prms.step_labels import LabelKind, align_labels, unlabelled
from genprm.prms.thinkprm.judge import INSTRUCTION, QUESTION, THINK_END
from genprm.rpe.rationales import GENERATOR, TeacherError, holds
from genprm.rpe.rows import Drop, Message
from genprm.types import Verdict

_BOX = re.compile(r"\\boxed\s*\{\s*(?:\\text\w*\s*\{\s*)?(correct|incorrect)\s*\}(?:\s*\})?", re.IGNORECASE)
_AFTER_BOX = re.compile(r"\$?\*{0,2}\.?\$?")


class Filter(StrEnum):
    """Which chains are kept."""

    PROCESS = "process"
    """Those whose labels match up to the first wrong step."""
    OUTCOME = "outcome"
    """Those that find a wrong step if and only if the solution has one, whichever it is."""
    NONE = "none"
    """All that follow the layout."""


@dataclass(frozen=True, slots=True)
class VerificationChain:
    """A teacher's chain about a solution."""

    text: str
    finished: bool
    """Whether it ended before the token limit."""
    generated: int = 0
    """Generated tokens."""


class ChainTeacher(Protocol):
    """Writes verification chains."""

    name: str

    async def write(self, problem: str, steps: Sequence[str], *, identity: str | None, seed: int) -> VerificationChain:
        """Writes one chain.

        Raises:
            TeacherError: the teacher cannot review this solution.
            EngineError: the engine failed.
        """
        ...


class ModelChainTeacher:
    """A chat model as teacher.

    Args:
        engine: the model.
        temperature: temperature of the chains; 0.1 in the paper.
        max_tokens: the longest chain that is kept; 4,096 in the paper.
    """

    def __init__(self, engine: Engine, *, temperature: float = 0.1, max_tokens: int = 4096) -> None:
        self.name = engine.model_name
        self._engine = engine
        self._temperature = temperature
        self._max_tokens = max_tokens

    async def write(self, problem: str, steps: Sequence[str], *, identity: str | None, seed: int) -> VerificationChain:
        """Writes one chain; see `ChainTeacher`."""
        del identity
        tokenizer = self._engine.tokenizer
        asked = prompts.render("teacher/chain", problem=problem, solution=solution_text(steps))
        messages = [{"role": "user", "content": asked}]
        opening = prompts.render("teacher/chain_opening")
        ids = tokenizer.encode_chat(messages, True, opening)
        sampling = Sampling(self._max_tokens, temperature=self._temperature, stop=(THINK_END,), seed=seed)
        done = await self._engine.generate(ids, sampling, chain=f"chain {problem[:40]} {len(ids)}")
        text = opening + done.text.removesuffix(THINK_END)
        return VerificationChain(text, done.finish.complete, done.sampled_tokens)


class GeneratorChainTeacher:
    """Writes chains about generated word problems by rule, from the known truth."""

    name = GENERATOR

    async def write(self, problem: str, steps: Sequence[str], *, identity: str | None, seed: int) -> VerificationChain:
        """Writes one chain; see `ChainTeacher`. The same solution always gets the same chain.

        Raises:
            TeacherError: the problem is not a generated one.
        """
        del seed
        made = find_problem(identity, problem)
        if made is None:
            raise TeacherError(
                f"the teacher {GENERATOR!r} reviews only the word problems of `--generate`, not {identity!r}"
            )
        # Not truncated: a prefix need not give the answer.
        wrong = first_error(made, [*steps, f"\\boxed{{{made.answer}}}"])
        lines = [prompts.render("teacher/chain_opening")]
        for index, step in enumerate(steps if wrong < 0 else steps[: wrong + 1]):
            equations = read_equations(step)
            claims = " and ".join(f"{left} = {value}" for left, value in equations)
            said = f"It says {claims}." if claims else "It has no calculation to check."
            if index != wrong:
                said += " This holds, and it is what the problem asks for." if claims else ""
            elif all(holds(left, value) for left, value in equations):
                said += " This holds, but it is not what the problem asks for."
            else:
                said += " This does not hold."
            lines.append(
                f"Step {index + 1}: {said} The step is \\boxed{{{'incorrect' if index == wrong else 'correct'}}}."
            )
        return VerificationChain("\n".join(lines), finished=True)


def solution_text(steps: Sequence[str]) -> str:
    """A solution in ThinkPRM's layout: one numbered line per step."""
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(unlabelled(steps), start=1)).strip()


def clean(text: str) -> str:
    r"""A chain in the form for training: `\boxed{\text{correct}}` without `\text`, and nothing after the last label."""
    boxes = list(_BOX.finditer(text))
    if boxes:
        after = _AFTER_BOX.match(text, boxes[-1].end())
        text = text[: after.end() if after else boxes[-1].end()]
    return _BOX.sub(lambda box: f"\\boxed{{{box[1].lower()}}}", text).strip()


def first_error_of(text: str, steps: int) -> int | None:
    """The first step that a chain labels incorrect, 0-based; -1 for none, None where a label before it is missing."""
    for index, label in enumerate(align_labels(text, steps)):
        if label.kind is LabelKind.INCORRECT:
            return index
        if label.kind is not LabelKind.CORRECT:
            return None
    return -1


def agrees(label: int, found: int, kept: Filter) -> bool:
    """Whether a chain passes a filter.

    Args:
        label: the known first wrong step, -1 for none.
        found: the chain's first wrong step.
        kept: the filter.
    """
    if kept is Filter.PROCESS:
        return found == label
    return kept is Filter.NONE or (found < 0) == (label < 0)


def chain_drop(label: int | None, chain: VerificationChain | None, found: int | None, kept: Filter) -> Drop | None:
    """Returns why a chain is dropped; None when it is kept.

    Args:
        label: the known first wrong step; None when undecided: then no chain is written.
        chain: the teacher's chain.
        found: its first wrong step, see `first_error_of`.
        kept: the filter.
    """
    if label is None or chain is None:
        return Drop.UNDECIDED
    if not chain.finished:
        return Drop.LENGTH
    if found is None:
        return Drop.LAYOUT
    return None if agrees(label, found, kept) else Drop.DISAGREES


def chain_messages(problem: str, steps: Sequence[str], text: str, *, correct: bool) -> list[Message]:
    """The training conversation: the prompt of ThinkPRM, and the chain in `<think>` with its final answer.

    Args:
        problem: the question.
        steps: steps of the prefix.
        text: the chain, cleaned.
        correct: whether the chain finds no wrong step, which its answer must say.
    """
    user = prompts.render("thinkprm/user", problem=problem, solution=solution_text(steps), instruction=INSTRUCTION)
    verdict = Verdict.YES if correct else Verdict.NO
    turn = f"<think>\n{text}\n{THINK_END}\n{QUESTION} {verdict}"
    return [Message(role="user", content=user), Message(role="assistant", content=turn)]
