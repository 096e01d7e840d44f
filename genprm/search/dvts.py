"""Diverse verifier tree search (Beeching et al., 2024): independent narrow trees instead of one wide beam."""

from __future__ import annotations

from genprm.prms.calls import call_seed
from genprm.prms.genprm.judge import all_of
from genprm.search.beam import Growing, Leaf
from genprm.search.candidates import Found
from genprm.search.policy import PathState, Policy
from genprm.search.scoring import Meter, Scored, Scorer


async def dvts(
    problem: str,
    policy: Policy,
    scorer: Scorer,
    *,
    n: int,
    width: int,
    iterations: int,
    seed: int,
    meter: Meter,
    lookahead: int = 0,
) -> Found:
    """Searches n / width trees side by side. Each goes on from the best of `width` continuations, round after round.

    A tree ends when its best continuation does. Every solution that came to an end on the way is a candidate.

    Args: as for `genprm.search.beam.beam_search`; n must be a multiple of `width`.
    """

    async def tree(number: int) -> Found:
        grow = Growing(problem, policy, scorer, call_seed(seed, number), lookahead, meter, Found())
        best = Leaf(policy.begin(problem), -1, Scored(None, None))
        for depth in range(iterations):
            leaves = await grow.continued([best] * width, depth, last=depth == iterations - 1)
            alive = [leaf for leaf in leaves if leaf.path.state is not PathState.CUT]
            grow.collect(leaves)
            best = max(alive, key=lambda leaf: leaf.rank, default=best)
            if not alive or best.path.state is PathState.FINISHED:
                break
            grow.keep([best], 1)
        return grow.found

    found = Found()
    for one in await all_of(tree(number) for number in range(n // width)):
        found.add_tree(one)
    return found
