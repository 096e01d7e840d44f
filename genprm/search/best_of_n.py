"""Best-of-n: n independent solutions, each judged as soon as it is written."""

from __future__ import annotations

from genprm.concurrency import gather
from genprm.prms.calls import call_seed, chain_name
from genprm.search.candidates import Candidate, SearchResult
from genprm.search.policy import Policy, SolutionState
from genprm.search.scoring import UNSCORED, Scored, Scorer, TokenCount


async def best_of_n(
    problem: str, policy: Policy, scorer: Scorer | None, *, n: int, seed: int, spent: TokenCount
) -> SearchResult:
    """Samples n solutions concurrently and scores the finished ones.

    Args:
        problem: the question.
        policy: writes the solutions.
        scorer: None only samples, for majority votes.
        n: number of solutions.
        seed: the same seed gives the same solutions, and a larger n begins with those of a smaller n.
        spent: counts the policy's tokens.
    """

    async def one(number: int) -> Candidate:
        # Separate chain names, so that solutions are spread over several servers.
        chain = chain_name("policy", seed, problem, number)
        solution = await policy.finish(policy.begin(problem), call_seed(seed, number), chain=chain)
        spent.policy += solution.spent
        if solution.state is not SolutionState.FINISHED:
            scored = Scored(None, None, solution.reason)
        else:
            scored = UNSCORED if scorer is None else await scorer.score(solution.steps)
        return Candidate(solution, scored, solution.spent)

    return SearchResult(await gather(one(number) for number in range(n)))
