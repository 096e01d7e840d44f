"""Beam search over steps (Snell et al., arXiv 2408.03314, section 5.2).

What its released form leaves open is decided here:

* a solution that came to an end is a candidate and takes no further part, so its share of the beam is not paid again;
* continuations that say the same are judged and continued once;
* what looking ahead writes is scored, or nothing is written;
* one that never ends is no candidate for an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genprm.prms.calls import call_seed, chain_name
from genprm.prms.genprm.judge import all_of
from genprm.search.candidates import Candidate, Found, Node, NodeState
from genprm.search.policy import Path, PathState, Policy
from genprm.search.scoring import Meter, Scored, Scorer


@dataclass(frozen=True, slots=True)
class Leaf:
    """A node that may be continued."""

    path: Path
    node: int
    scored: Scored

    @property
    def rank(self) -> float:
        """Higher is better; without a reward, lowest."""
        return float("-inf") if self.scored.reward is None else self.scored.reward


@dataclass(frozen=True, slots=True)
class Growing:
    """One problem's search tree, and what grows it."""

    problem: str
    policy: Policy
    scorer: Scorer
    seed: int
    lookahead: int
    meter: Meter
    found: Found

    async def continued(self, parents: Sequence[Leaf], depth: int, *, last: bool) -> list[Leaf]:
        """One continuation of each parent, judged; those that say the same once. The order is that of the parents.

        Args:
            parents: with repetitions, where one is to be continued several times.
            depth: of the new nodes.
            last: write them to the end.
        """
        chain = chain_name("policy", self.seed, self.problem)

        async def write(number: int, parent: Leaf) -> Path:
            seed = call_seed(self.seed, depth, number)
            more = self.policy.finish if last else self.policy.step
            return await more(parent.path, seed, chain=chain)

        paths = await all_of(write(number, parent) for number, parent in enumerate(parents))
        fresh: dict[tuple[tuple[str, ...], PathState], tuple[Path, int]] = {}
        for parent, path in zip(parents, paths, strict=True):
            self.meter.policy += path.spent
            node = Node(parent.node, path.steps[len(parent.path.steps) :], state=NodeState.DUPLICATE)
            self.found.nodes.append(node)
            if (path.steps, path.state) not in fresh:
                fresh[path.steps, path.state] = (path, len(self.found.nodes) - 1)
        return await all_of(self._judged(path, node) for path, node in fresh.values())

    async def _judged(self, path: Path, index: int) -> Leaf:
        node = self.found.nodes[index]
        if path.state is PathState.CUT:
            node.state = NodeState.CUT
            return Leaf(path, index, Scored(None, None, "it came to no end"))
        ahead = path
        for number in range(self.lookahead):
            if ahead.state is not PathState.OPEN:
                break
            ahead = await self.policy.step(ahead, call_seed(self.seed, number), greedy=True)
            self.meter.policy += ahead.spent
        scored = await self.scorer.score(ahead.steps)
        node.reward = scored.reward
        node.state = NodeState.FINISHED if path.state is PathState.FINISHED else NodeState.DROPPED
        return Leaf(path, index, scored)

    def collect(self, leaves: Sequence[Leaf]) -> list[Leaf]:
        """Makes candidates of those that came to an end (or never will), and gives those that can be continued."""
        left: list[Leaf] = []
        for leaf in leaves:
            if leaf.path.state is PathState.OPEN:
                left.append(leaf)
            else:
                self.found.candidates.append(Candidate(leaf.path, leaf.scored, node=leaf.node))
        return left

    def keep(self, leaves: Sequence[Leaf], count: int) -> list[Leaf]:
        """The best of some leaves; of equal ones the first."""
        best = sorted(leaves, key=lambda leaf: -leaf.rank)[:count]
        for leaf in best:
            self.found.nodes[leaf.node].state = NodeState.KEPT
        return best


async def beam_search(
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
    """Searches for solutions step by step.

    Each round continues the best beginnings by a step, so that there are `n`, less those that came to an end, and keeps
    one in `width` of them. The last round writes to the end.

    Args:
        problem: the question.
        policy: writes the steps.
        scorer: judges beginnings.
        n: beginnings a round, and most candidates.
        width: continuations of each that is kept, at most n.
        iterations: most rounds.
        seed: makes it repeatable.
        meter: counts the policy's tokens.
        lookahead: greedy steps written behind a beginning before it is judged.
    """
    grow = Growing(problem, policy, scorer, seed, lookahead, meter, Found())
    kept = [Leaf(policy.begin(problem), -1, Scored(None, None))]
    for depth in range(iterations):
        room = n - sum(candidate.finished for candidate in grow.found.candidates)
        if not kept or room < 1:
            break
        parents = [kept[number % len(kept)] for number in range(room)]
        leaves = grow.collect(await grow.continued(parents, depth, last=depth == iterations - 1))
        room = n - sum(candidate.finished for candidate in grow.found.candidates)
        kept = grow.keep(leaves, max(1, room // width)) if room else []
    return grow.found
