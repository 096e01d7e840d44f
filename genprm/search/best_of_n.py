"""Best-of-n: n independent solutions, each judged as soon as it is written."""

from __future__ import annotations

from genprm.prms.calls import call_seed, chain_name
from genprm.prms.genprm.judge import all_of
from genprm.search.candidates import Candidate, Found
from genprm.search.policy import PathState, Policy
from genprm.search.scoring import UNSCORED, Meter, Scorer


async def best_of_n(problem: str, policy: Policy, scorer: Scorer | None, *, n: int, seed: int, meter: Meter) -> Found:
    """Samples n solutions side by side and scores those that came to an end.

    Args:
        problem: the question.
        policy: writes the solutions.
        scorer: None samples only, for majorities.
        n: solutions.
        seed: makes it repeatable; the first solutions of a larger n are those of a smaller one.
        meter: counts the policy's tokens.
    """

    async def one(number: int) -> Candidate:
        # A chain of its own for each: with several servers they are spread.
        chain = chain_name("policy", seed, problem, number)
        path = await policy.finish(policy.begin(problem), call_seed(seed, number), chain=chain)
        meter.policy += path.spent
        scored = UNSCORED
        if scorer is not None and path.state is PathState.FINISHED:
            scored = await scorer.score(path.steps)
        return Candidate(path, scored, path.spent)

    return Found(await all_of(one(number) for number in range(n)))
