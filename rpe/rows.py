"""Rows of `genprm label` (one JSON object per problem) and `genprm synthesize` (one per solution)."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from genprm.grading.answers import Outcome
from genprm.rpe.budget import State
from genprm.runs.rows import ItemRow, Row


class ValueRow(Row):
    """Rollouts from one prefix."""

    successes: int
    rollouts: int
    """Number of rollouts with a known outcome."""
    unknown: int = 0
    """Time-outs and errors of the answer comparison. They are excluded from `rollouts`."""
    exact: bool = False
    """True after the last step, whose value is 1 or 0 by the solution's own answer."""


class StepLabelRow(Row):
    """The label of a step, and how it was decided."""

    label: bool | None
    """None when undecided, or after the first wrong step."""
    state: State
    progress: float | None = None
    """Value after the step divided by the value before it; for other methods their difference, or the value after."""
    standard_error: float | None = None
    """Standard error of `progress`, if the number of rollouts was fixed in advance."""
    estimate: bool | None = None
    """The label, or the uncertain point estimate if undecided. None after the first wrong step."""
    probability: float | None = None
    """Posterior probability that the step is right; adaptive budgets only."""
    rollouts: int = 0


class SolutionRow(Row):
    """A solution with its labels."""

    steps: list[str]
    outcome: Outcome
    copies: int
    """Number of times this text was sampled."""
    values: list[ValueRow]
    """(steps,) value after each step. Prefixes that several solutions share are rolled out once."""
    labels: list[StepLabelRow]
    first_error: int | None
    """First wrong step, 0-based; -1 for none, None when an undecided label comes first."""
    first_error_estimate: int | None = None
    """The same from the steps' estimates; uncertain if `first_error` is None."""


class Samples(Row):
    """Counts of the sampled solutions of a problem."""

    right: int = 0
    wrong: int = 0
    unknown: int = 0
    """The comparison with the reference answer timed out or failed. Excluded from Pass@1."""
    invalid: int = 0
    """Cut off at the token limit, or only one step. Not labelled, but counted in Pass@1."""

    @property
    def pass_at_1(self) -> float:
        """Share of right solutions among those with a known outcome, in [0, 1]."""
        return self.right / known if (known := self.right + self.wrong) else 0.0


class LabelRow(ItemRow):
    """A problem with labelled solutions."""

    id: str | None = None
    problem: str
    answer: str
    dropped: str | None = None
    """Why there are no labelled solutions: `always solved`, `never solved`, `never solved by the completer`, or
    `reference answer: ...`."""
    samples: Samples
    start: ValueRow | None = None
    """The value before the first step."""
    budget: int = 0
    """Rollouts per step by equation 9, or the requested fixed number."""
    solutions: list[SolutionRow] = Field(default_factory=list[SolutionRow])
    rollouts: int = 0
    """Sampled continuations, over all solutions."""
    generated: int = 0
    """Generated tokens, of solutions and continuations."""


class Drop(StrEnum):
    """Why a labelled solution does not become a training row."""

    UNDECIDED = "undecided"
    """The rollouts did not determine its first wrong step."""
    DISAGREES = "disagrees"
    """The teacher names a different first wrong step."""
    NO_VERDICT = "no_verdict"
    """The teacher gave no valid conclusion."""
    LAYOUT = "layout"
    """The review of a paragraph up to the first wrong one has the wrong layout."""
    CODE = "code"
    """The review of a paragraph has no code that ran."""
    BLOCKS = "blocks"
    """The review of a paragraph has more code blocks than the judge can write in a turn."""
    CONTRADICTS = "contradicts"
    """The output of the code contradicts the verdict on its step."""
    IDLE_CODE = "idle_code"
    """A step has a calculation, but its code computes nothing from it."""
    DUPLICATE = "duplicate"
    """It equals an earlier chain about the same solution. Set when the data set is written."""
    BALANCE = "balance"
    """Dropped to balance right and wrong solutions. Set when the data set is written."""
    LENGTH = "length"
    """The chain was cut off at the token limit."""


class Message(Row):
    """A turn of a conversation."""

    role: str
    content: str


class SynthesisRow(ItemRow):
    """A labelled solution with its rationales, or with one verification chain."""

    id: str
    problem: str
    steps: list[str]
    label: int | None
    """First wrong step by rollouts."""
    first_error: int | None
    """First wrong step by the teacher; None without a valid conclusion."""
    kept: bool
    dropped: Drop | None = None
    teacher: str
    messages: list[Message] = Field(default_factory=list[Message])
    snippets: dict[str, int] = Field(default_factory=dict[str, int])
    """Number of snippets by status."""
    generated: int = 0
