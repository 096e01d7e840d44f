"""Diverse verifier tree search (Beeching et al., 2024): independent narrow trees instead of one wide beam."""

from __future__ import annotations

from genprm.concurrency import gather
from genprm.prms.calls import call_seed
from genprm.search.beam import Leaf, SearchTree
from genprm.search.candidates import SearchResult
from genprm.search.policy import Policy, SolutionState
from genprm.search.scoring import Scored, Scorer, TokenCount


async def dvts(
    problem: str,
    policy: Policy,
    scorer: Scorer,
    *,
    n: int,
    width: int,
    iterations: int,
    seed: int,
    spent: TokenCount,
    lookahead: int = 0,
) -> SearchResult:
    """Searches n / width independent trees. Each round continues the best of `width` continuations of each tree.

    A tree ends when its best continuation is finished. Every finished solution is a candidate.

    Args: as for `genprm.search.beam.beam_search`; n must be a multiple of `width`.
    """

    async def tree(number: int) -> SearchResult:
        grow = SearchTree(problem, policy, scorer, call_seed(seed, number), lookahead, spent, SearchResult())
        best = Leaf(policy.begin(problem), -1, Scored(None, None))
        for depth in range(iterations):
            leaves = await grow.continued([best] * width, depth, last=depth == iterations - 1)
            alive = [leaf for leaf in leaves if leaf.solution.state is not SolutionState.CUT]
            grow.collect(leaves)
            best = max(alive, key=lambda leaf: leaf.rank, default=best)
            if not alive or best.solution.state is SolutionState.FINISHED:
                break
            grow.keep([best], 1)
        return grow.result

    result = SearchResult()
    for number, found in enumerate(await gather(tree(number) for number in range(n // width))):
        result.add_tree(found, number)
    return result
