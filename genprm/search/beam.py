"""Beam search over steps (Snell et al., arXiv 2408.03314, section 5.2).

The released code leaves four points open. Here

* a finished solution becomes a candidate and leaves the beam, so its share is not sampled again;
* equal continuations are judged and continued once, and a candidate records how many samples it represents;
* steps written by lookahead are scored; without lookahead none are written;
* a solution that never ends cannot be the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genprm.concurrency import gather
from genprm.prms.calls import call_seed, chain_name
from genprm.search.candidates import Candidate, Node, NodeState, SearchResult
from genprm.search.policy import PartialSolution, Policy, SolutionState
from genprm.search.scoring import Scored, Scorer, TokenCount


@dataclass(frozen=True, slots=True)
class Leaf:
    """An unfinished or finished end of the tree: a partial solution, its node and its score."""

    solution: PartialSolution
    node: int
    scored: Scored
    copies: int = 1
    """Samples with this text in its round."""

    @property
    def rank(self) -> float:
        """Higher is better; without a reward, lowest."""
        return float("-inf") if self.scored.reward is None else self.scored.reward


@dataclass(frozen=True, slots=True)
class SearchTree:
    """The search tree of one problem, with the policy and scorer that grow it."""

    problem: str
    policy: Policy
    scorer: Scorer
    seed: int
    lookahead: int
    spent: TokenCount
    result: SearchResult

    async def continued(self, parents: Sequence[Leaf], depth: int, *, last: bool) -> list[Leaf]:
        """Writes and scores one continuation of each parent, in their order. Equal continuations are scored once.

        Args:
            parents: a parent that is continued several times appears several times.
            depth: of the new nodes.
            last: write to the end of the solution instead of one step.
        """
        chain = chain_name("policy", self.seed, self.problem)

        async def write(number: int, parent: Leaf) -> PartialSolution:
            seed = call_seed(self.seed, depth, number)
            more = self.policy.finish if last else self.policy.step
            return await more(parent.solution, seed, chain=chain)

        solutions = await gather(write(number, parent) for number, parent in enumerate(parents))
        fresh: dict[tuple[tuple[str, ...], SolutionState], tuple[PartialSolution, int]] = {}
        for parent, solution in zip(parents, solutions, strict=True):
            self.spent.policy += solution.spent
            node = Node(parent.node, solution.steps[len(parent.solution.steps) :])
            self.result.nodes.append(node)
            first = fresh.setdefault((solution.steps, solution.state), (solution, len(self.result.nodes) - 1))[1]
            if self.result.nodes[first] is not node:
                node.state, node.copies = NodeState.DUPLICATE, 0
                self.result.nodes[first].copies += 1
        return await gather(self._judged(solution, node) for solution, node in fresh.values())

    async def _judged(self, solution: PartialSolution, index: int) -> Leaf:
        node = self.result.nodes[index]
        if solution.state is SolutionState.CUT:
            node.state = NodeState.CUT
            return Leaf(solution, index, Scored(None, None, solution.reason), node.copies)
        ahead = solution
        for number in range(self.lookahead):
            if ahead.state is not SolutionState.OPEN:
                break
            ahead = await self.policy.step(ahead, call_seed(self.seed, number), greedy=True)
            self.spent.policy += ahead.spent
        scored = await self.scorer.score(ahead.steps)
        node.reward = scored.reward
        node.state = NodeState.FINISHED if solution.state is SolutionState.FINISHED else NodeState.DROPPED
        return Leaf(solution, index, scored, node.copies)

    def collect(self, leaves: Sequence[Leaf]) -> list[Leaf]:
        """Adds the finished and the cut leaves to the candidates and returns the open ones."""
        left: list[Leaf] = []
        for leaf in leaves:
            if leaf.solution.state is SolutionState.OPEN:
                left.append(leaf)
            else:
                self.result.candidates.append(Candidate(leaf.solution, leaf.scored, node=leaf.node, copies=leaf.copies))
        return left

    @property
    def finished(self) -> int:
        """Samples that are finished, copies included."""
        return sum(candidate.copies for candidate in self.result.candidates if candidate.finished)

    def keep(self, leaves: Sequence[Leaf], count: int) -> list[Leaf]:
        """Returns the best leaves; ties go to the first."""
        best = sorted(leaves, key=lambda leaf: -leaf.rank)[:count]
        for leaf in best:
            self.result.nodes[leaf.node].state = NodeState.KEPT
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
    spent: TokenCount,
    lookahead: int = 0,
) -> SearchResult:
    """Searches for solutions step by step.

    Each round extends the kept prefixes by one step to `n` continuations, minus the finished solutions, and keeps one
    in `width` of them. The last round writes to the end.

    Args:
        problem: the question.
        policy: writes the steps.
        scorer: scores prefixes.
        n: continuations per round, and the maximum number of candidates.
        width: continuations of each kept prefix, at most n.
        iterations: maximum number of rounds.
        seed: the same seed gives the same search.
        spent: counts the policy's tokens.
        lookahead: greedy steps written after a prefix before it is scored.
    """
    grow = SearchTree(problem, policy, scorer, seed, lookahead, spent, SearchResult())
    kept = [Leaf(policy.begin(problem), -1, Scored(None, None))]
    for depth in range(iterations):
        room = n - grow.finished
        if not kept or room < 1:
            break
        parents = [kept[number % len(kept)] for number in range(room)]
        leaves = grow.collect(await grow.continued(parents, depth, last=depth == iterations - 1))
        room = n - grow.finished
        kept = grow.keep(leaves, max(1, room // width)) if room else []
    return grow.result
