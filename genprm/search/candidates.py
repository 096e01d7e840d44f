"""What a search comes to: the solutions that it found, and the tree in which it looked for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from genprm.search.policy import Path, PathState
from genprm.search.scoring import Scored
from genprm.types import Tokens


class NodeState(StrEnum):
    """What became of a node of a search tree."""

    KEPT = "kept"
    """It was continued."""
    DROPPED = "dropped"
    """Others scored higher."""
    DUPLICATE = "duplicate"
    """Another continuation says the same; it was neither judged nor continued."""
    FINISHED = "finished"
    CUT = "cut"
    """The tokens or steps ran out before an end."""


@dataclass(slots=True)
class Node:
    """One continuation in a search tree: one step, or several where the rest was written in one go."""

    parent: int
    """Index of the node that it continues, -1 for the first step."""
    steps: tuple[str, ...]
    """What it adds."""
    reward: float | None = None
    state: NodeState = NodeState.DROPPED


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution that a search came to."""

    path: Path
    scored: Scored
    tokens: Tokens = field(default_factory=Tokens)
    """What the policy spent on it alone. In a tree the steps are shared, and this is nothing."""
    node: int | None = None
    """Its last node, where there is a tree."""

    @property
    def finished(self) -> bool:
        """Whether it came to an end. If not, it is no answer."""
        return self.path.state is PathState.FINISHED


@dataclass(slots=True)
class Found:
    """The outcome of a search."""

    candidates: list[Candidate] = field(default_factory=list[Candidate])
    """In the order in which they count for n = 1, 2, 4 ..., the unfinished included."""
    nodes: list[Node] = field(default_factory=list[Node])

    def add_tree(self, other: Found) -> None:
        """Takes in another search of the same problem."""
        shift = len(self.nodes)
        for node in other.nodes:
            self.nodes.append(
                Node(node.parent if node.parent < 0 else node.parent + shift, node.steps, node.reward, node.state)
            )
        for one in other.candidates:
            node = None if one.node is None else one.node + shift
            self.candidates.append(Candidate(one.path, one.scored, one.tokens, node))
