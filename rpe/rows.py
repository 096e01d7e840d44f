"""What `genprm label` writes, one JSON object a problem, and `genprm synthesize`, one a solution."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from genprm.grading.answers import Outcome
from genprm.rpe.budget import State


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ValueRow(_Model):
    """Rollouts from one prefix."""

    successes: int
    rollouts: int
    """Those whose outcome is known."""
    unknown: int = 0
    """Time-outs and errors of the comparison, which count neither way."""
    exact: bool = False
    """After the last step: 1 or 0 by the solution's own answer."""


class StepLabelRow(_Model):
    """The label of a step, and what it rests on."""

    label: bool | None
    """None where nobody knows, or after the first wrong step."""
    state: State
    progress: float | None = None
    """Value after the step over value before it (or their difference, or the value, by the method)."""
    standard_error: float | None = None
    probability: float | None = None
    """That the step is right, where the budget is adaptive."""
    rollouts: int = 0


class SolutionRow(_Model):
    """A solution with its labels."""

    steps: list[str]
    outcome: Outcome
    copies: int
    """How often it was sampled."""
    values: list[ValueRow]
    """(steps,) after each step. Prefixes that several solutions share were rolled out once."""
    labels: list[StepLabelRow]
    first_error: int | None
    """0-based, -1 for none, None when a label before it is unknown."""


class Samples(_Model):
    """What came of sampling solutions."""

    right: int = 0
    wrong: int = 0
    unknown: int = 0
    """The comparison with the reference answer timed out or failed: counted neither way."""
    invalid: int = 0
    """Cut off, or of a single step: not used, but counted in Pass@1."""

    @property
    def pass_at_1(self) -> float:
        """The share of right ones among those whose outcome is known."""
        return self.right / known if (known := self.right + self.wrong) else 0.0


class LabelRow(_Model):
    """A problem with labelled solutions."""

    key: str
    id: str | None = None
    problem: str
    answer: str
    dropped: str | None = None
    """Why there are no solutions: `always solved`, `never solved`, `reference answer: ...`."""
    samples: Samples
    start: ValueRow | None = None
    """The value before the first step."""
    budget: int = 0
    """Rollouts a step by equation 9 (or as asked for)."""
    solutions: list[SolutionRow] = []
    rollouts: int = 0
    """Continuations that were sampled, over all solutions."""
    generated: int = 0
    """Tokens, of solutions and continuations."""


class Drop(StrEnum):
    """Why a labelled solution does not become a training row."""

    UNDECIDED = "undecided"
    """The rollouts did not decide where its first wrong step is."""
    DISAGREES = "disagrees"
    """The teacher names another first wrong step."""
    NO_VERDICT = "no_verdict"
    """The teacher named none."""
    LAYOUT = "layout"
    """The teacher did not review every paragraph up to the first wrong one in the form it was asked for."""
    CODE = "code"
    """The review of a paragraph has no code that was run."""


class Message(_Model):
    """A turn of a conversation."""

    role: str
    content: str


class SynthesisRow(_Model):
    """A labelled solution with its critiques."""

    key: str
    id: str
    problem: str
    steps: list[str]
    label: int | None
    """First wrong step by rollouts."""
    first_error: int | None
    """First wrong step by the teacher; None where it named none."""
    kept: bool
    dropped: Drop | None = None
    teacher: str
    messages: list[Message] = []
    snippets: dict[str, int] = {}
    """How many ended with which status."""
    generated: int = 0
