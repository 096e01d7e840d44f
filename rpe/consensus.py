"""The consensus filter: keep solutions on which rollouts and teacher agree. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from genprm import prompts
from genprm.prms.code_blocks import SHOWN
from genprm.prms.genprm.protocol import FENCE_END, Profile
from genprm.rpe.meta_check import contradicts, idle
from genprm.rpe.rationales import Review, StepCritique, to_turn
from genprm.rpe.rows import Drop, Message

ROUNDS = Profile().rounds
"""Generations of the trained judge for a turn, after its analysis."""


def drop_reason(label: int | None, steps: Sequence[str], review: Review, *, meta_check: bool = True) -> Drop | None:
    """Returns why a solution is dropped; None when it is kept.

    A solution is kept when the teacher and the labels agree on the first wrong step. This is the paper's filter: with
    the same first wrong step, all labels up to it agree, and training rows end there. Every step up to it must have a
    rationale with code that ran, in no more generations than the judge has for a turn: `train sft` refuses others.

    Args:
        label: first wrong step by rollouts, 0-based; -1 for none, None when undecided.
        steps: the steps of the solution.
        review: the teacher's review.
        meta_check: whether code must also support its verdict; see `genprm.rpe.meta_check`.
    """
    if label is None:
        return Drop.UNDECIDED
    if review.first_error is None:
        return Drop.NO_VERDICT
    if review.first_error != label:
        return Drop.DISAGREES
    needed = review.critiques[: len(steps) if label < 0 else label + 1]
    if any(critique is None for critique in needed):
        return Drop.LAYOUT
    if any(not _has_run(critique) for critique in needed if critique is not None):
        return Drop.CODE
    if any(_rounds(critique) > ROUNDS for critique in needed if critique is not None):
        return Drop.BLOCKS
    if meta_check:
        for index, critique in enumerate(needed):
            if critique is not None and contradicts(critique.verification, correct=index != label):
                return Drop.CONTRADICTS
            if critique is not None and idle(steps[index], critique.verification):
                return Drop.IDLE_CODE
    return None


def to_messages(problem: str, steps: Sequence[str], label: int, review: Review, *, question: bool) -> list[Message]:
    """Builds the training conversation: a user turn and an assistant turn per step, up to the first wrong one.

    Args:
        problem: the question.
        steps: the steps of the solution.
        label: first wrong step, 0-based; -1 for none.
        review: a review with a rationale for every step up to `label`.
        question: whether the first user turn begins with `Question: `, as in the released training data.
    """
    messages = [Message(role="system", content=prompts.render("genprm/system"))]
    first = "genprm/first_turn_question" if question else "genprm/first_turn"
    for index, step in enumerate(steps if label < 0 else steps[: label + 1]):
        critique = review.critiques[index]
        assert critique is not None, "a kept solution has a critique of every step"
        user = prompts.render(first, problem=problem, step=step) if index == 0 else step
        messages.append(Message(role="user", content=user))
        messages.append(Message(role="assistant", content=to_turn(index + 1, critique, correct=index != label)))
    return messages


def _rounds(critique: StepCritique) -> int:
    """Generations in which the judge would write a verification: each ends at a code fence, and one more closes it."""
    return SHOWN.sub("", critique.verification).count(FENCE_END) + 1


def _has_run(critique: StepCritique) -> bool:
    return critique.verification.startswith("```python") and "[Code Output]" in critique.verification
