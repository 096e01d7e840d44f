"""Searches one problem with a policy, a PRM and a method, and builds its output row."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum

from genprm.config import Keep
from genprm.data.problems import ProblemRow
from genprm.data.steps import split_steps
from genprm.data.thoughts import UNCLOSED, cut_thoughts
from genprm.grading.grades import Grade, Grader
from genprm.prms.base import PRM
from genprm.runs.rows import TokensRow, step_row
from genprm.search.beam import beam_search
from genprm.search.best_of_n import best_of_n
from genprm.search.candidates import Candidate, SearchResult
from genprm.search.dvts import dvts
from genprm.search.policy import PartialSolution, Policy, SolutionState
from genprm.search.rows import CandidateRow, NodeRow, SearchRow
from genprm.search.scoring import UNSCORED, Scored, Scorer, TokenCount
from genprm.search.voting import Aggregate, clipped, pick_best, pick_majority, pick_weighted
from genprm.types import Tokens, sigmoid


class Method(StrEnum):
    """Search method."""

    BEST_OF_N = "best_of_n"
    BEAM = "beam"
    DVTS = "dvts"


class Choose(StrEnum):
    """How the answer is chosen among the candidates."""

    BEST = "best"
    WEIGHTED = "weighted"
    MAJORITY = "majority"


PICKS = {Choose.BEST: pick_best, Choose.WEIGHTED: pick_weighted, Choose.MAJORITY: pick_majority}


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Settings of a search."""

    method: Method = Method.BEST_OF_N
    n: int = 8
    width: int = 4
    """Continuations of each kept prefix, in beam search and DVTS."""
    iterations: int = 20
    """Maximum number of rounds of beam search and DVTS; the last round writes to the end."""
    lookahead: int = 0
    """Greedy steps written after a prefix before it is scored; 0 writes none."""
    aggregate: Aggregate | None = None
    """How step scores become one. None: the score of the whole solution from judges that give one, else the minimum."""
    choose: Choose = Choose.BEST


async def search(
    row: ProblemRow,
    settings: SearchSettings,
    *,
    policy: Policy | None,
    prm: PRM | None,
    grader: Grader,
    seed: int = 0,
    keep: Keep = Keep.SCORES,
) -> SearchRow:
    """Searches for solutions of one problem.

    Args:
        row: the problem. If it has stored solutions, those are judged and nothing is sampled.
        settings: method and its parameters.
        policy: writes solutions; None when the problem has stored ones.
        prm: judges them; None only samples, or uses the stored rewards.
        grader: reads and compares answers.
        seed: the same seed gives the same search.
        keep: whether the row keeps the judge's chains or only scores.

    Raises:
        EngineError: an engine could not answer.
        SandboxError: the sandbox broke.
    """
    started = time.perf_counter()
    spent = TokenCount()
    scorer = None if prm is None else Scorer(prm, row.problem, how=settings.aggregate, seed=seed, spent=spent)
    try:
        async with nullcontext() if scorer is None else scorer.room(settings.n):
            found = await _found(row, settings, policy, scorer, seed, spent)
    finally:
        if scorer is not None:
            await scorer.close()
    if row.pool is None:
        texts = [candidate.solution.text if candidate.finished else "" for candidate in found.candidates]
        grades = await grader.grade(row.answer, texts)
    else:
        marked = list(zip(found.candidates, row.pool.answers, row.pool.correct, strict=False))
        groups = await grader.group([answer if one.finished else None for one, answer, _ in marked])
        grades = [
            Grade(group, correct and one.finished) for group, (one, _, correct) in zip(groups, marked, strict=True)
        ]
    candidates = [
        _candidate_row(candidate, grade, keep) for candidate, grade in zip(found.candidates, grades, strict=True)
    ]
    answers = [candidate.answer for candidate in candidates]
    rewards = [candidate.reward for candidate in candidates]
    chosen = PICKS[settings.choose](answers, rewards, [candidate.copies for candidate in candidates])
    return SearchRow(
        key=row.key,
        id=row.id,
        problem=row.problem,
        answer=row.answer,
        chosen=chosen,
        prediction=None if chosen is None else answers[chosen],
        correct=None if chosen is None else candidates[chosen].correct,
        candidates=candidates,
        nodes=[
            NodeRow(
                parent=node.parent,
                steps=list(node.steps),
                score=_score(node.reward),
                state=node.state,
                copies=node.copies,
            )
            for node in found.nodes
        ],
        policy=_tokens(spent.policy),
        prm=_tokens(spent.prm),
        judged_steps=spent.judged_steps,
        seconds=round(time.perf_counter() - started, 3),
    )


async def _found(
    row: ProblemRow,
    settings: SearchSettings,
    policy: Policy | None,
    scorer: Scorer | None,
    seed: int,
    spent: TokenCount,
) -> SearchResult:
    if row.pool is not None:
        return await _pool(row, settings, scorer)
    if policy is None:
        raise ValueError("a problem without stored solutions needs a policy")
    if settings.method is Method.BEST_OF_N:
        return await best_of_n(row.problem, policy, scorer, n=settings.n, seed=seed, spent=spent)
    if scorer is None:
        raise ValueError(f"{settings.method} needs a PRM")
    grow = beam_search if settings.method is Method.BEAM else dvts
    return await grow(
        row.problem,
        policy,
        scorer,
        n=settings.n,
        width=settings.width,
        iterations=settings.iterations,
        seed=seed,
        spent=spent,
        lookahead=settings.lookahead,
    )


async def _pool(row: ProblemRow, settings: SearchSettings, scorer: Scorer | None) -> SearchResult:
    """The first n stored solutions."""
    assert row.pool is not None
    stored = row.pool.rewards
    found = SearchResult()
    for number, solution in enumerate(row.pool.solutions[: settings.n]):
        part = cut_thoughts(solution)
        state = SolutionState.CUT if part.thinking else SolutionState.FINISHED
        steps = tuple(split_steps(part.solution))
        reason = UNCLOSED if part.thinking else None
        written = PartialSolution(
            (), part.solution, steps, state, reason=reason, thoughts=part.thoughts, thinking=part.thinking
        )
        if reason is not None:
            scored = Scored(None, None, reason)
        elif scorer is not None:
            scored = await scorer.score(steps)
        else:
            scored = UNSCORED if stored is None else Scored(clipped(stored[number]), None)
        found.candidates.append(Candidate(written, scored))
    return found


def _candidate_row(candidate: Candidate, grade: Grade, keep: Keep) -> CandidateRow:
    judgement, solution = candidate.scored.judgement, candidate.solution
    steps = () if judgement is None else judgement.steps
    chains = max((len(step.chains) for step in steps), default=0)
    full = all(len(step.chains) == chains for step in steps)
    whole = () if judgement is None or judgement.solution is None else judgement.solution.chains
    # A judge with a separate chain per prefix has counted the last chain with the last step.
    counted = any(chain.tokens.generated for step in steps for chain in step.chains)
    return CandidateRow(
        steps=list(solution.steps),
        finished=candidate.finished,
        answer=grade.answer,
        correct=grade.correct,
        reward=candidate.scored.reward,
        score=_score(candidate.scored.reward),
        scores=[] if judgement is None else judgement.scores,
        reason=candidate.scored.reason,
        thoughts=solution.thoughts,
        votes=[[step.chains[vote].score for step in steps] for vote in range(chains)] if full else [],
        vote_tokens=[[step.chains[vote].tokens.generated for step in steps] for vote in range(chains)] if full else [],
        whole_votes=[chain.score for chain in whole],
        whole_tokens=[] if counted else [chain.tokens.generated for chain in whole],
        copies=candidate.copies,
        tree=candidate.tree,
        generated=candidate.tokens.generated,
        node=candidate.node,
        judged=[step_row(text, step, keep) for text, step in zip(solution.steps, steps, strict=False)]
        if keep is Keep.FULL
        else [],
    )


def _score(reward: float | None) -> float | None:
    return None if reward is None else sigmoid(reward)


def _tokens(tokens: Tokens) -> TokensRow:
    return TokensRow(prompt=tokens.prompt, generated=tokens.generated, cached=tokens.cached)
