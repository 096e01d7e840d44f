"""The totals of a run of `verify`, computed in one pass that keeps only counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from genprm.benchmarks.processbench import f1_score
from genprm.runs.rows import VerifyRow


class LabelMetrics(BaseModel):
    """First-error accuracy over the labelled rows (ProcessBench's official score)."""

    f1: float | None
    error_accuracy: float | None
    correct_accuracy: float | None
    errors: int
    correct: int


class TimeSpent(BaseModel):
    """Where the time of a run went.

    Calls overlap: the first three are seconds of chains, summed over all that were under way.
    """

    engine_s: float
    """Waiting for the model, its queue included."""
    sandbox_s: float
    """Waiting for snippets, the sandbox's queue included."""
    waiting_s: float
    """Waiting for room in the engine's cache."""
    driver_s: float
    """CPU time of the thread that drives: prompts, parsing, rows, and the client of the engine. A run is as fast as one
    core of Python allows when it comes near `seconds`."""
    engine_calls: int
    sandbox_calls: int


class SessionMetrics(BaseModel):
    """Metrics of the latest run of the command, without earlier runs into the same folder."""

    rows: int
    failed: int
    duplicates: int = 0
    """Rows of the input that were skipped because they repeat an earlier one."""
    seconds: float
    generated_per_s: float
    """Generated tokens per second, of finished rows."""
    time: TimeSpent | None = None
    """None where the model was asked by other processes: the workers of a cluster."""


class Metrics(BaseModel):
    """Content of `metrics.json`."""

    model_config = ConfigDict(extra="ignore")

    rows: int
    """Rows judged, including earlier runs into the same folder."""
    failed: int
    """Inputs that could not be judged; the same command retries them."""
    judged_right: int
    """Rows without a wrong step."""
    judged_wrong: int
    undecided: int
    """Rows whose first error is undecided."""
    undecided_reasons: dict[str, int] = {}
    """Reason -> rows, the most frequent first."""
    steps: int
    steps_without_score: int
    first_errors: dict[int, int]
    """First wrong step (0-based) -> rows."""
    tokens: dict[str, int]
    """Totals over the rows above: `prompt`, `cached` (part of `prompt`, from a prefix cache), `generated`, `saved` by
    stopping early; and the number of `requests`."""
    requests_per_step: float | None = None
    """Engine requests per step that a chain judged; None if no requests were counted."""
    copied_votes: int = 0
    """Votes on steps that are not independent: the chain had skipped an earlier step, and continued from the first
    chain's conversation."""
    code: dict[str, int]
    """Status of snippets -> their number."""
    labels: LabelMetrics | None
    """None when no row has a label."""
    session: SessionMetrics | None = None
    interrupted: bool = False
    """The latest run was stopped before its end."""


class Tally:
    """Adds up rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._outcomes: Counter[str] = Counter()
        self._first_errors: Counter[int] = Counter()
        self._steps: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter(prompt=0, cached=0, generated=0, requests=0, saved=0)
        self._votes: Counter[str] = Counter()
        self._code: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._labelled: list[tuple[int | None, int]] = []

    def add(self, row: VerifyRow) -> None:
        """Adds one row."""
        self.rows += 1
        if row.first_error is None:
            self._outcomes["undecided"] += 1
            self._reasons[row.reason or "a step has no score"] += 1
        elif row.first_error < 0:
            self._outcomes["right"] += 1
        else:
            self._outcomes["wrong"] += 1
            self._first_errors[row.first_error] += 1
        self._steps["all"] += len(row.scores)
        self._steps["without"] += row.scores.count(None)
        self._tokens.update(row.tokens.model_dump())
        for step in row.steps if row.solution is None else (*row.steps, row.solution):
            self._code.update(step.code)
            self._votes.update(all=step.votes, copied=step.copied)
        if row.label is not None:
            self._labelled.append((row.first_error, row.label))

    def metrics(self, *, failed: int, session: SessionMetrics | None = None, interrupted: bool = False) -> Metrics:
        """The metrics of the rows so far."""
        labels = None
        if self._labelled:
            predictions, truth = zip(*self._labelled, strict=True)
            labels = LabelMetrics.model_validate(asdict(f1_score(predictions, truth)))
        votes = self._votes["all"]
        return Metrics(
            rows=self.rows,
            failed=failed,
            judged_right=self._outcomes["right"],
            judged_wrong=self._outcomes["wrong"],
            undecided=self._outcomes["undecided"],
            undecided_reasons=dict(self._reasons.most_common()),
            steps=self._steps["all"],
            steps_without_score=self._steps["without"],
            first_errors=dict(sorted(self._first_errors.items())),
            tokens=dict(self._tokens),
            requests_per_step=requests / votes if (requests := self._tokens["requests"]) and votes else None,
            copied_votes=self._votes["copied"],
            code=dict(self._code.most_common()),
            labels=labels,
            session=session,
            interrupted=interrupted,
        )
