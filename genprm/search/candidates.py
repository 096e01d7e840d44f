"""The result of a search: its candidate solutions and its search tree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from genprm.search.policy import PartialSolution, SolutionState
from genprm.search.scoring import Scored
from genprm.types import Tokens


class NodeState(StrEnum):
    """What happened to a node of a search tree."""

    KEPT = "kept"
    """It was continued."""
    DROPPED = "dropped"
    """Others scored higher."""
    DUPLICATE = "duplicate"
    """Equal to an earlier continuation: not scored and not continued by itself."""
    FINISHED = "finished"
    CUT = "cut"
    """Tokens or steps ran out before the solution ended."""


@dataclass(slots=True)
class Node:
    """One continuation in a search tree: one step, or several when the last round wrote the rest."""

    parent: int
    """Index of its parent node; -1 for a first step."""
    steps: tuple[str, ...]
    """The steps that it adds."""
    reward: float | None = None
    state: NodeState = NodeState.DROPPED
    copies: int = 1
    """Continuations with this text, of which one was scored; 0 for a duplicate, which is counted there."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution found by a search."""

    solution: PartialSolution
    scored: Scored
    tokens: Tokens = field(default_factory=Tokens)
    """Tokens the policy spent on this solution alone; zero in a tree, where steps are shared."""
    node: int | None = None
    """Index of its last node; None without a tree."""
    copies: int = 1
    """Samples with this text. A vote counts each of them."""
    tree: int = 0
    """Index of its tree; 0 except in DVTS."""

    @property
    def finished(self) -> bool:
        """Whether it ended by itself. An unfinished solution is never the answer."""
        return self.solution.state is SolutionState.FINISHED


@dataclass(slots=True)
class SearchResult:
    """Candidates and tree of one search."""

    candidates: list[Candidate] = field(default_factory=list[Candidate])
    """Including unfinished ones; the first n are the candidates of a search with that n."""
    nodes: list[Node] = field(default_factory=list[Node])

    def add_tree(self, other: SearchResult, tree: int) -> None:
        """Adds another search of the same problem as the tree with this index."""
        shift = len(self.nodes)
        for node in other.nodes:
            self.nodes.append(replace(node, parent=node.parent if node.parent < 0 else node.parent + shift))
        for one in other.candidates:
            node = None if one.node is None else one.node + shift
            self.candidates.append(replace(one, node=node, tree=tree))
