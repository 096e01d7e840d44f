"""Requests and responses as pydantic models, from which the OpenAPI schema is generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from genprm.config import Keep
from genprm.data.inputs import InputError, InputRow, Record, parse_row
from genprm.data.thoughts import UNCLOSED, cut_thoughts
from genprm.runs.rows import StepRow, VerifyRow
from genprm.search.refine import Style
from genprm.serve.errors import Refusal, Unfit
from genprm.serve.settings import ServeConfig

Text = Annotated[str, Field(min_length=1)]
Timeout = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=1 << 31)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(_Sent):
    """One solution to judge: its steps, or a text that is split into steps."""

    problem: Text
    steps: list[Text] | None = Field(default=None, min_length=1)
    solution: Text | None = None
    id: str | None = None
    answer: str | None = Field(default=None, description="The reference answer, compared with the solution's.")
    correct: bool | None = Field(default=None, description="Whether the answer is right, if the client knows.")
    seed: Seed = 0

    def row(self, config: ServeConfig) -> InputRow:
        """Converts the solution to an input row of `genprm verify`.

        Raises:
            Unfit: it is an unfinished or blank solution, or exceeds a limit.
            Refusal: it is not a solution.
        """
        if (self.steps is None) == (self.solution is None):
            raise Refusal(422, "invalid", 'a solution needs either "steps" (a list of texts) or "solution" (a text)')
        given = self.model_dump(include={"problem", "steps", "solution", "id", "answer"}, exclude_none=True)
        return read_row(given, config)


def read_row(value: Mapping[str, object], config: ServeConfig) -> InputRow:
    """Converts a solution to an input row of `genprm verify`.

    Raises:
        Unfit: it is an unfinished or blank solution, or exceeds a limit.
        Refusal: it is not a solution.
    """
    solution = value.get("solution")
    if isinstance(solution, str):
        part = cut_thoughts(solution)
        if part.thinking:
            raise Unfit(422, "unfinished", UNCLOSED)
        if not part.solution.strip():
            raise Unfit(422, "empty", "there are no steps")
    try:
        row = parse_row(Record("request", 1, dict(value)))
    except InputError as error:
        raise Refusal(422, "invalid", str(error)) from None
    if not isinstance(row, InputRow):
        raise Refusal(422, "invalid", row.reason)
    problem, steps = row.problem, row.steps
    if len(steps) > config.max_steps:
        raise Unfit(422, "too_many_steps", f"{len(steps)} steps exceed max_steps, {config.max_steps}")
    if (size := len(problem) + sum(map(len, steps)) + len(row.answer or "")) > config.max_chars:
        what = "problem and steps" if row.answer is None else "problem, steps and answer"
        # A solution may be too long for its policy's fault; a problem cannot.
        kind = Unfit if len(problem) + len(row.answer or "") <= config.max_chars else Refusal
        raise kind(422, "too_long", f"{size} characters of {what} exceed max_chars, {config.max_chars}")
    return row


class Asked(_Sent):
    """One solution (`problem` and `steps` or `solution`), or many (`items`)."""

    problem: Text | None = None
    steps: list[Text] | None = Field(default=None, min_length=1)
    solution: Text | None = None
    id: str | None = None
    answer: str | None = Field(default=None, description="The reference answer, compared with the solution's.")
    correct: bool | None = Field(default=None, description="Whether the answer is right, if the client knows.")
    seed: Seed = 0
    items: list[Item] | None = Field(default=None, min_length=1, description="Solutions, instead of one.")
    timeout_s: Timeout | None = Field(
        default=None, description="Deadline: steps judged by then come back, the others are null."
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.problem is None) == (self.items is None):
            raise ValueError('a request needs either "problem" with "steps" or "solution", or "items"')
        if self.items is not None and (misplaced := self.model_fields_set & (Item.model_fields.keys())):
            raise ValueError(f'with "items", {", ".join(sorted(misplaced))} belong in the items')
        return self

    @property
    def solutions(self) -> list[Item]:
        """The solutions to judge."""
        if self.items is not None:
            return self.items
        return [Item(**self.model_dump(include=set(Item.model_fields)))]


class JudgeAsked(Asked):
    """A request to judge."""

    stream: bool = Field(default=False, description="Send each step as it is judged, as server-sent events.")
    keep: Keep = Field(
        default=Keep.FULL, description="full: every chain's text, code and output; scores: numbers only."
    )


class CritiqueAsked(Asked):
    """A request for a critique."""

    style: Style = Field(default=Style.ANALYSIS, description="Content of the message about the wrong step.")


class JudgedRow(VerifyRow):
    """A row of `genprm verify`, with fields of the service."""

    complete: bool
    """Whether all steps were judged before the deadline."""
    correct: bool | None
    """Whether the answer is right; None when unknown."""
    violation: str | None
    """The violated format rule, for rewards."""
    reward: float | None
    """See `genprm.rewards.gated_reward`; without an answer to compare, the lowest step score."""


class ScoreRow(BaseModel):
    """Numbers only."""

    id: str | None
    scores: list[float | None]
    spans: list[list[int]] | None
    """First character and end of each step in `solution`; null when steps were sent."""
    first_error: int | None
    solution: float | None
    """The score of the whole solution, from judges that give one."""
    correct: bool | None
    violation: str | None
    reward: float | None
    complete: bool
    reason: str | None
    """Why a score is missing."""


class CritiqueRow(BaseModel):
    """The judge's critique of a solution."""

    id: str | None
    accepted: bool
    """Whether no step is judged wrong."""
    complete: bool
    step: int | None
    """0-based index of the first wrong step."""
    analysis: str
    message: str | None
    """The user turn to append to the conversation; null when no step is judged wrong."""
    scores: list[float | None]


class Failure(BaseModel):
    """Why there is no judgement."""

    type: str
    message: str


class FailedRow(BaseModel):
    """A solution in a batch that could not be judged."""

    id: str | None
    error: Failure


class JudgedRows(BaseModel):
    """One row per solution, in order."""

    rows: list[JudgedRow | FailedRow]


class ScoreRows(BaseModel):
    """One row per solution, in order."""

    rows: list[ScoreRow | FailedRow]


class CritiqueRows(BaseModel):
    """One row per solution, in order."""

    rows: list[CritiqueRow | FailedRow]


class StepEvent(StepRow):
    """One step of a stream."""

    item: int
    index: int


class ErrorBody(BaseModel):
    """The body of responses with status 4xx or 5xx."""

    error: Failure
