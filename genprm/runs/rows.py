"""Output rows, one JSON object per line: the judgement of a solution, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from genprm.config import Keep
from genprm.data.inputs import BadRow, InputRow
from genprm.types import Chain, ChainFinish, Judgement, StepJudgement, Verdict


class Row(BaseModel):
    """A row of a file, or a part of one. Other versions may read it: unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ItemRow(Row):
    """The result of an item of the input."""

    key: str
    place: int | None = None
    """0-based place in the input of the run that made it: rows are written as they are finished, in any order."""


class CodeRow(Row):
    """One snippet and its result."""

    source: str
    status: str
    stdout: str
    error: str | None
    duration_s: float


class ChainRow(Row):
    """One chain's judgement of a step."""

    text: str
    code: list[CodeRow]
    score: float | None
    verdict: Verdict | None
    finish: ChainFinish
    generated: int = 0
    """Tokens generated."""
    copied: bool = False
    """It continues another chain's conversation, so it is not an independent vote."""


class StepRow(Row):
    """The judgement of a step."""

    step: str | None = None
    """The step itself; None when only scores are kept."""
    score: float | None
    log_odds: float | None
    """log P(Yes) - log P(No); None if the score is exactly 0 or 1, because JSON has no infinity."""
    reason: str | None = None
    """Why there is no score."""
    code: dict[str, int] = Field(default_factory=dict[str, int])
    """Status -> number of snippets, over all chains."""
    votes: int = 0
    """Chains that judged the step."""
    copied: int = 0
    """How many of them continue another chain's conversation, so that they are not independent votes."""
    chains: list[ChainRow] = Field(default_factory=list[ChainRow])
    """Empty when only scores are kept."""


class TokensRow(Row):
    """Tokens spent on a row."""

    prompt: int = 0
    generated: int = 0
    cached: int = 0
    """Part of `prompt` that came from a prefix cache."""
    requests: int = 0
    """Requests to the engine."""
    saved: int = 0
    """Estimate of the generated tokens saved by stopping early."""


class VerifyRow(ItemRow):
    """The judgement of a solution."""

    id: str | None = None
    first_error: int | None
    """0-based, -1 for none, None when undecided: see `reason`."""
    reason: str | None = None
    """Why the first error is undecided."""
    label: int | None = None
    answer: str | None = None
    threshold: float
    scores: list[float | None]
    verdicts: list[Verdict | None]
    problem: str | None = None
    """None when only scores are kept."""
    steps: list[StepRow]
    thoughts: str | None = None
    """A reasoning model's thoughts before the solution; not judged."""
    solution: StepRow | None = None
    """The judgement of the whole solution, from judges that give one."""
    first_error_vote: int | None = None
    """The first wrong step that most chains name, from judges that name it directly."""
    tokens: TokensRow
    seconds: float
    """From the start of the row to its last verdict, including waiting."""


class FailureRow(Row):
    """An input that was not judged."""

    key: str | None
    """None if the input is not a valid row."""
    id: str | None = None
    file: str
    line: int
    kind: str
    """`input` for a malformed row, else the type of the error."""
    reason: str
    label: int | None = None
    """The input's label: a comparison of runs counts the row as a miss."""


def verify_row(row: InputRow, judgement: Judgement, *, seconds: float, keep: Keep = Keep.FULL) -> VerifyRow:
    """Converts a judgement to its stored and served form."""
    full = keep is Keep.FULL
    steps: Sequence[str | None] = row.steps if full else [None] * len(row.steps)
    tokens = judgement.tokens
    return VerifyRow(
        key=row.key,
        id=row.id,
        first_error=judgement.first_error,
        reason=judgement.reason,
        label=row.label,
        answer=row.answer,
        threshold=judgement.threshold,
        scores=judgement.scores,
        verdicts=judgement.verdicts,
        problem=row.problem if full else None,
        steps=[step_row(text, step, keep) for text, step in zip(steps, judgement.steps, strict=True)],
        thoughts=row.thoughts if full else None,
        solution=None if judgement.solution is None else step_row(None, judgement.solution, keep),
        first_error_vote=judgement.first_error_vote,
        tokens=TokensRow(
            prompt=tokens.prompt,
            generated=tokens.generated,
            cached=tokens.cached,
            requests=tokens.requests,
            saved=judgement.tokens_saved,
        ),
        seconds=round(seconds, 3),
    )


class Located(Protocol):
    """An input item with its name and position."""

    @property
    def key(self) -> str:
        """Its key in the run's folder."""
        ...

    @property
    def file(self) -> str:
        """Its file."""
        ...

    @property
    def line(self) -> int:
        """1-based line of the file."""
        ...

    @property
    def id(self) -> str | None:
        """Its id in the file."""
        ...


def failure_row(row: Located | BadRow, error: Exception | None = None) -> FailureRow:
    """Makes the row of an input that was not judged."""
    if isinstance(row, BadRow):
        return FailureRow(key=None, file=row.file, line=row.line, kind="input", reason=row.reason)
    kind = type(error).__name__
    label = row.label if isinstance(row, InputRow) else None
    reason = str(error) or kind
    return FailureRow(key=row.key, id=row.id, file=row.file, line=row.line, kind=kind, reason=reason, label=label)


def step_row(text: str | None, step: StepJudgement, keep: Keep) -> StepRow:
    """Converts the judgement of one step to its stored form."""
    statuses = [run.status for chain in step.chains for run in chain.code]
    return StepRow(
        step=text,
        score=step.score,
        log_odds=step.log_odds if step.log_odds is not None and math.isfinite(step.log_odds) else None,
        reason=step.reason,
        code={status: statuses.count(status) for status in sorted(set(statuses))},
        votes=len(step.chains),
        copied=sum(chain.copied for chain in step.chains),
        chains=[_chain_row(chain) for chain in step.chains] if keep is Keep.FULL else [],
    )


def _chain_row(chain: Chain) -> ChainRow:
    code = [
        CodeRow(
            source=run.source,
            status=str(run.status),
            stdout=run.stdout,
            error=run.error,
            duration_s=round(run.duration_s, 6),
        )
        for run in chain.code
    ]
    return ChainRow(
        text=chain.text,
        code=code,
        score=chain.score,
        verdict=chain.verdict,
        finish=chain.finish,
        generated=chain.tokens.generated,
        copied=chain.copied,
    )
