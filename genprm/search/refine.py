"""Refinement: a PRM criticises a solution and the policy writes it again.

The loop of GenPRM (arXiv 2504.00891, section 4.3): the first wrong step and its analysis go back to the policy, which
rewrites the whole solution, for a maximum number of turns or until the PRM finds no wrong step. `critique` gives the
message of one turn, for custom training loops.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from genprm import prompts
from genprm.config import Keep
from genprm.data.problems import ProblemRow
from genprm.data.steps import join_steps
from genprm.engines.errors import ContextOverflowError
from genprm.grading.grades import Grade, Grader
from genprm.prms.base import PRM
from genprm.prms.calls import call_seed, chain_name
from genprm.runs.rows import StepRow, TokensRow, step_row
from genprm.search.policy import PartialSolution, Policy, SolutionState
from genprm.search.rows import RefineRow, TurnRow
from genprm.search.scoring import reward_of, unscored_reason
from genprm.search.voting import Aggregate
from genprm.types import Chain, Judgement, Tokens, sigmoid

_ANALYSIS = re.compile(r"<analyze>\n?(.*?)(?:</analyze>|\Z)", re.DOTALL)
_TAG = re.compile(r"</?(?:analyze|verify|output|think)>")


class Style(StrEnum):
    """Content of a critique."""

    ANALYSIS = "analysis"
    """Only the analysis of the wrong step, as in the published experiments."""
    CODE = "code"
    """The analysis, the code that was run, and its output."""


class KeepTurn(StrEnum):
    """Which turn's solution is the answer."""

    BEST = "best"
    """The turn with the highest score; ties go to the latest."""
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Critique:
    """A PRM's criticism of a solution."""

    judgement: Judgement
    step: int | None
    """0-based index of the first wrong step; None when none is judged wrong."""
    analysis: str
    """The PRM's analysis of that step; empty for judges that write none."""
    message: str | None
    """User turn to append to the conversation; None when no step is judged wrong."""

    @property
    def accepted(self) -> bool:
        """Whether the PRM finds nothing wrong, in a step or in the solution as a whole."""
        whole = self.judgement.solution
        rejected = whole is not None and whole.score is not None and whole.score < self.judgement.threshold
        return self.step is None and not rejected


async def critique(
    problem: str,
    steps: Sequence[str],
    *,
    prm: PRM | None = None,
    model: str = "nano",
    style: Style = Style.ANALYSIS,
    seed: int = 0,
    **options: Any,
) -> Critique:
    """Judges a solution and writes the message that tells the policy what is wrong.

    Args:
        problem: the question.
        steps: the solution's steps in order.
        prm: an open judge; it stays open. None loads one for this call.
        model: which model to load, as for `load_prm`.
        style: content of the message.
        seed: the same seed gives the same judgement.
        **options: of `load_prm`.

    Raises:
        PRMError: there is nothing to judge.
        EngineError: the engine could not answer.
        SandboxError: the sandbox broke.
    """
    if prm is None:
        from genprm.api import judge

        judgement = await judge(problem, steps, model=model, seed=seed, **options)
    else:
        judgement = await prm.judge(problem, steps, seed=seed)
    return critique_of(steps, judgement, style)


def critique_of(steps: Sequence[str], judgement: Judgement, style: Style = Style.ANALYSIS) -> Critique:
    """The critique of a judged solution.

    Steps without a score are skipped: they are not a reason to rewrite the solution.
    """
    below = [index for index, score in enumerate(judgement.scores) if score is not None and score < judgement.threshold]
    wrong = judgement.first_error_vote if judgement.first_error_vote is not None else below[0] if below else -1
    if wrong < 0:
        return Critique(judgement, None, "", None)
    chains = judgement.steps[wrong].chains
    # Of several votes, quote the first that rejects the step.
    against = [chain for chain in chains if chain.score is not None and chain.score < judgement.threshold]
    chain = next(iter([*against, *chains]), None)
    analysis = "" if chain is None else analysis_of(chain.text)
    if style is Style.CODE and chain is not None:
        message = prompts.render("refine/critique_code", step=steps[wrong], critique=analysis, runs=_runs(chain))
    else:
        message = prompts.render("refine/critique", step=steps[wrong], critique=analysis)
    return Critique(judgement, wrong, analysis, message.rstrip())


def analysis_of(text: str) -> str:
    """The analysis in a chain's text, without GenPRM's opening words.

    A text without a marked analysis is returned whole, without tags.
    """
    found = _ANALYSIS.search(text)
    if found is None:
        return _TAG.sub("", text).strip()
    lead, colon, rest = found[1].partition(":")
    return (rest if colon and "\n" not in lead else found[1]).strip()


def _runs(chain: Chain) -> list[dict[str, str]]:
    runs: list[dict[str, str]] = []
    for run in chain.code:
        if run.status != "not_run":
            printed = "\n".join(part for part in (run.stdout.strip(), run.error or "") if part)
            runs.append({"source": run.source.strip(), "printed": printed})
    return runs


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """Settings of refinement."""

    turns: int = 3
    """Maximum number of critiques sent to the policy."""
    keep: KeepTurn = KeepTurn.BEST
    style: Style = Style.ANALYSIS
    aggregate: Aggregate | None = None
    """How turns are scored; see `genprm.search.scoring.reward_of`."""


@dataclass(slots=True)
class _Turn:
    solution: PartialSolution
    prm: Tokens
    critique: Critique | None = None
    """None when there was nothing to judge: the solution is unfinished."""
    reason: str | None = None

    @property
    def finished(self) -> bool:
        return self.solution.state is SolutionState.FINISHED


async def refine(
    row: ProblemRow, settings: RefineSettings, *, policy: Policy, prm: PRM, grader: Grader, seed: int = 0
) -> RefineRow:
    """Solves a problem and refines the solution until the PRM finds nothing wrong or the turns run out.

    An unfinished solution is never kept; the next turn continues from the last finished one.

    Args:
        row: the problem.
        settings: turns, style and choice of turn.
        policy: writes solutions.
        prm: judges them.
        grader: compares answers; the loop never sees the reference answer.
        seed: the same seed gives the same refinement.

    Raises:
        EngineError: an engine could not answer.
        SandboxError: the sandbox broke.
    """
    started = time.perf_counter()
    turns: list[_Turn] = []
    last: _Turn | None = None
    chain = chain_name("refine", seed, row.problem)
    for number in range(settings.turns + 1):
        then: list[dict[str, str]] = []
        if last is not None and last.critique is not None:
            if last.critique.message is None:
                break
            then = [
                {"role": "assistant", "content": join_steps(last.solution.steps)},
                {"role": "user", "content": last.critique.message},
            ]
        solution = await policy.finish(policy.begin(row.problem, then), call_seed(seed, number), chain=chain)
        turn = _Turn(solution, Tokens())
        turns.append(turn)
        if solution.state is not SolutionState.FINISHED or not solution.steps:
            turn.reason = solution.reason or "the solution has no steps"
            continue
        try:
            turn.critique = await critique(row.problem, solution.steps, prm=prm, style=settings.style, seed=seed)
        except ContextOverflowError as error:
            turn.reason = str(error)
            continue
        turn.prm = turn.critique.judgement.tokens
        if reward_of(turn.critique.judgement, settings.aggregate) is None:
            turn.reason = unscored_reason(turn.critique.judgement, settings.aggregate)
        last = turn
    grades = await grader.grade(row.answer, [turn.solution.text if turn.finished else "" for turn in turns])
    return _row(row, settings, turns, grades, time.perf_counter() - started)


def _row(
    row: ProblemRow, settings: RefineSettings, turns: Sequence[_Turn], grades: Sequence[Grade], seconds: float
) -> RefineRow:
    rows = [_turn_row(turn, grade, settings) for turn, grade in zip(turns, grades, strict=True)]
    # The answer after each turn; it stays the same after the loop has ended.
    after = [keep_turn(rows[: number + 1], settings.keep) for number in range(len(rows))]
    after += [after[-1]] * (settings.turns + 1 - len(after))
    chosen = after[-1]
    policy = sum((turn.solution.spent for turn in turns), Tokens())
    prm = sum((turn.prm for turn in turns), Tokens())
    return RefineRow(
        key=row.key,
        id=row.id,
        problem=row.problem,
        answer=row.answer,
        chosen=chosen,
        prediction=None if chosen is None else rows[chosen].answer,
        correct=None if chosen is None else rows[chosen].correct,
        after=after,
        turns=rows,
        policy=TokensRow(prompt=policy.prompt, generated=policy.generated, cached=policy.cached),
        prm=TokensRow(prompt=prm.prompt, generated=prm.generated, cached=prm.cached),
        seconds=round(seconds, 3),
    )


def keep_turn(turns: Sequence[TurnRow], keep: KeepTurn) -> int | None:
    """Index of the turn taken as the answer; None when no turn is finished."""
    ended = [number for number, turn in enumerate(turns) if turn.finished]
    if not ended:
        return None
    if keep is KeepTurn.LAST:
        return ended[-1]
    return max(ended, key=lambda number: (_rank(turns[number]), number))


def _rank(turn: TurnRow) -> float:
    return float("-inf") if turn.reward is None else turn.reward


def _turn_row(turn: _Turn, grade: Grade, settings: RefineSettings) -> TurnRow:
    found, solution = turn.critique, turn.solution
    reward = None if found is None else reward_of(found.judgement, settings.aggregate)
    judged: list[StepRow] = []
    if found is not None:
        pairs = zip(solution.steps, found.judgement.steps, strict=True)
        judged = [step_row(text, step, Keep.FULL) for text, step in pairs]
    return TurnRow(
        steps=list(solution.steps),
        thoughts=solution.thoughts,
        finished=turn.finished,
        answer=grade.answer,
        correct=grade.correct,
        reward=reward,
        score=None if reward is None else sigmoid(reward),
        scores=[] if found is None else found.judgement.scores,
        first_error=None if found is None else found.judgement.first_error,
        accepted=found is not None and found.accepted,
        reason=turn.reason,
        message=None if found is None else found.message,
        judged=judged,
        policy=solution.spent.generated,
        prm=turn.prm.generated,
    )
