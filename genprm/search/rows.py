"""What a search writes, one JSON object a problem."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from genprm.runs.rows import StepRow, TokensRow
from genprm.search.candidates import NodeState


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class CandidateRow(_Model):
    """One solution that a search came to."""

    steps: list[str]
    finished: bool
    """False for one that ran out of tokens or steps: it is no answer, whatever it says."""
    answer: str | None
    """Equal answers have the same text here; None without one."""
    correct: bool | None
    """None where there is no reference answer, or the comparison did not end."""
    reward: float | None
    """Log-odds that it is right, as aggregated over the steps; None without a judgement."""
    score: float | None
    """The same as a probability."""
    scores: list[float | None] = []
    """One a step."""
    reason: str | None = None
    """Why there is no reward."""
    votes: list[list[float | None]] = []
    """[vote][step]: the score that each chain of the PRM gave; empty for judges without chains."""
    vote_tokens: list[list[int]] = []
    """[vote][step]: tokens that each chain generated. Beginnings that several solutions share are judged once."""
    generated: int = 0
    """Tokens that the policy generated for this candidate alone; 0 in a tree, whose steps are shared."""
    node: int | None = None
    """Its last node in the tree."""
    judged: list[StepRow] = Field(default_factory=list[StepRow])
    """The PRM's chains; empty when only scores are kept."""


class NodeRow(_Model):
    """One continuation in a search tree."""

    parent: int
    """Index of the node that it continues, -1 for the first step."""
    steps: list[str]
    score: float | None
    state: NodeState


class ProblemRow(_Model):
    """What is kept of a problem, however it was solved."""

    key: str
    id: str | None = None
    problem: str
    answer: str | None = None
    """The reference answer."""
    chosen: int | None
    """Which attempt is the answer; None when none came to an end."""
    prediction: str | None
    correct: bool | None
    policy: TokensRow
    """What the policy spent."""
    prm: TokensRow
    """What the PRM spent."""
    seconds: float

    @property
    def generated(self) -> int:
        """Tokens generated for this problem, by policy and PRM."""
        return self.policy.generated + self.prm.generated


class SearchRow(ProblemRow):
    """What a search came to on one problem; `chosen` is a candidate."""

    candidates: list[CandidateRow]
    nodes: list[NodeRow] = []
    judged_steps: int = 0


class TurnRow(_Model):
    """One turn of the critic loop."""

    steps: list[str]
    finished: bool
    answer: str | None
    correct: bool | None
    reward: float | None
    score: float | None
    scores: list[float | None]
    first_error: int | None
    accepted: bool
    """Whether the PRM found nothing wrong."""
    reason: str | None = None
    """Why there is no judgement."""
    message: str | None
    """What the policy was told after this turn, had there been another; None when nothing was wrong."""
    judged: list[StepRow] = Field(default_factory=list[StepRow])
    policy: int
    """Tokens that the policy generated in this turn."""
    prm: int


class RefineRow(ProblemRow):
    """What the critic loop came to on one problem; `chosen` is a turn."""

    after: list[int | None]
    """The same, had the loop ended after turn 0, 1, 2 ..."""
    turns: list[TurnRow]
