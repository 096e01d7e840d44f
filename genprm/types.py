"""The common value types of genprm: judgements, chains, and their results.

This module imports no heavy package. A missing verdict is `None` with its reason, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from html import escape

DEFAULT_THRESHOLD = 0.5
"""A step whose score is below this is judged wrong (GenPRM, arXiv 2504.00891, section 4.1)."""


class Verdict(StrEnum):
    """A judge's verdict on one step."""

    YES = "Yes"
    NO = "No"


class ChainFinish(StrEnum):
    """How one chain finished one step."""

    VERDICT = "verdict"
    """The model wrote its verdict."""
    DEGRADED = "degraded"
    """The code rounds or the token budget ran out; the verdict was forced after the analysis alone."""
    NO_VERDICT = "no_verdict"
    """Not even the forced question gave a verdict; the step has no score in this chain."""
    IMPLIED = "implied"
    """The chain stopped at an earlier wrong step; this one counts as wrong too."""
    REPEATED = "repeated"
    """The model repeated itself and was stopped; a verdict, if there is one, was forced after that."""
    TESTS = "tests"
    """Not a model's judgement: the problem's tests were run against the solution's code."""


@dataclass(frozen=True, slots=True)
class CodeRun:
    """One snippet that the model wrote, and its result in the sandbox."""

    source: str
    status: str
    """A `sandbox.Status` value, or `not_run` if code is written but not executed."""
    stdout: str
    error: str | None
    """Type and message of the error that ended the snippet, or None."""
    duration_s: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens spent. `cached` of the `prompt` tokens were served from a prefix cache."""

    prompt: int = 0
    generated: int = 0
    cached: int = 0
    requests: int = 0
    """Requests to the engine, including those for the probabilities of a few next tokens, whose tokens are not
    counted."""

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.generated + other.generated,
            self.cached + other.cached,
            self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain's judgement of one step: its text, including executed output, and the score at its verdict."""

    text: str
    code: tuple[CodeRun, ...]
    score: float | None
    """P(Yes) / (P(Yes) + P(No)) in [0, 1], or None without a verdict."""
    log_odds: float | None
    """log P(Yes) - log P(No) at the verdict: stays precise where the score saturates."""
    verdict: Verdict | None
    """The word the model wrote, which may differ from `score >= threshold` when it sampled against the odds."""
    finish: ChainFinish
    tokens: Tokens = Tokens()
    copied: bool = False
    """Whether the chain continues another chain's conversation, after a step that it skipped: then it is not an
    independent vote."""


@dataclass(frozen=True, slots=True)
class StepJudgement:
    """The judgement of one step over all chains."""

    score: float | None
    """Mean of the chains' scores in [0, 1] (GenPRM eq. 7); None if no chain has one."""
    log_odds: float | None
    verdict: Verdict | None
    """`Yes` when `score >= threshold`."""
    chains: tuple[Chain, ...]
    reason: str | None = None
    """Why there is no score, or its origin if no chain judged this step itself."""

    @property
    def missing(self) -> int:
        """Chains without a verdict."""
        return sum(chain.score is None for chain in self.chains)


@dataclass(frozen=True, slots=True, repr=False)
class Judgement:
    """A PRM's judgement of a solution: one `StepJudgement` per step, in order."""

    steps: tuple[StepJudgement, ...]
    threshold: float = DEFAULT_THRESHOLD
    tokens: Tokens = Tokens()
    tokens_saved: int = 0
    """Estimate of the generated tokens saved by stopping early."""
    solution: StepJudgement | None = None
    """The judgement of the whole solution, from judges that give one."""
    first_error_vote: int | None = None
    """The first wrong step (or -1) that most chains name, from judges that name it directly; then it is `first_error`,
    whatever the scores."""

    @property
    def scores(self) -> list[float | None]:
        """One score per step."""
        return [step.score for step in self.steps]

    @property
    def verdicts(self) -> list[Verdict | None]:
        """One verdict per step."""
        return [step.verdict for step in self.steps]

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for `json.dumps`: scores, verdicts, first_error, and each step with its chains."""
        whole: dict[str, object] = {"scores": self.scores, "verdicts": self.verdicts, "first_error": self.first_error}
        return whole | asdict(self)

    def __repr__(self) -> str:
        """A one-line summary."""
        scores = ", ".join("None" if score is None else f"{score:.3f}" for score in self.scores)
        return f"Judgement(first_error={self.first_error}, scores=[{scores}], {self.tokens.generated} tokens generated)"

    def _repr_html_(self) -> str:
        """A table for notebooks, with steps counted from 1."""
        colours = {None: "#7a5b00", False: "#b3261e", True: "#1a7f4b"}
        rows: list[str] = []
        for number, step in enumerate(self.steps, start=1):
            good = None if step.score is None else step.score >= self.threshold
            score = escape(step.reason or "no score") if step.score is None else f"{step.score:.3f}"
            text = escape(step.chains[0].text) if step.chains else ""
            ran = "".join(
                f"<pre>{escape(run.source)}</pre><pre>{escape(run.stdout + (run.error or ''))}</pre>"
                for run in (step.chains[0].code if step.chains else ())
            )
            detail = f"<details><summary>rationale</summary><pre>{text}</pre>{ran}</details>" if text or ran else ""
            rows.append(f'<tr><td>{number}</td><td style="color:{colours[good]}">{score}</td><td>{detail}</td></tr>')
        first = self.first_error
        said = "undecided" if first is None else "no wrong step" if first < 0 else f"first wrong step: {first + 1}"
        return f"<table><tr><th>step</th><th>score</th><th>{said}</th></tr>{''.join(rows)}</table>"

    @property
    def first_error(self) -> int | None:
        """0-based index of the first wrong step, -1 if there is none, None if undecided.

        See `find_first_error`.
        """
        if self.first_error_vote is not None:
            return self.first_error_vote
        whole = None if self.solution is None else self.solution.score
        return find_first_error(self.scores, self.threshold, whole)

    @property
    def reason(self) -> str | None:
        """Why `first_error` is undecided; None if it is decided."""
        if self.first_error is not None:
            return None
        silent = next((step for step in self.steps if step.score is None), None)
        whole = None if self.solution is None else self.solution.score
        if whole is not None and not any(score is not None and score < self.threshold for score in self.scores):
            return "the solution as a whole is judged wrong, but none of its steps is"
        return "a step has no score" + (f": {silent.reason}" if silent is not None and silent.reason else "")


def find_first_error(
    scores: Sequence[float | None], threshold: float = DEFAULT_THRESHOLD, solution: float | None = None
) -> int | None:
    """The 0-based index of the first step that scores below the threshold, -1 if there is none.

    Args:
        scores: one per step; None without a verdict.
        threshold: the lowest score of a right step.
        solution: the score of the whole solution, from judges that give one. If no step is judged wrong, it decides
            about the steps without a verdict.

    Returns:
        None if undecided: a step without a verdict precedes any wrong one, or the solution is judged wrong but none of
        its
            steps is.
    """
    unknown = False
    for index, score in enumerate(scores):
        if score is None:
            unknown = True
        elif score < threshold:
            return None if unknown else index
    if solution is None:
        return None if unknown else -1
    return -1 if solution >= threshold else None


def combine_chains(chains: Sequence[Chain], threshold: float = DEFAULT_THRESHOLD) -> StepJudgement:
    """Averages independent chains into one judgement of a step (GenPRM, arXiv 2504.00891, eq. 7).

    Args:
        chains: at least one chain of the same step. Those without a score are excluded from the mean.
        threshold: the lowest score of a right step.

    Returns:
        The mean score, its log-odds, and the verdict; all None, with the reason, when no chain has a score.
    """
    scores = [chain.score for chain in chains if chain.score is not None]
    if not scores:
        finishes = sorted({chain.finish.value for chain in chains})
        return StepJudgement(None, None, None, tuple(chains), reason=f"no chain gave a verdict ({', '.join(finishes)})")
    mean = math.fsum(scores) / len(scores)
    # A single chain keeps its own log-odds: sigmoid and logit lose precision near 0 and 1.
    log_odds = chains[0].log_odds if len(chains) == 1 else logit(mean)
    return StepJudgement(mean, log_odds, Verdict.YES if mean >= threshold else Verdict.NO, tuple(chains))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def logit(p: float) -> float:
    """log(p / (1 - p)); infinite at 0 and 1."""
    if p <= 0.0:
        return -math.inf
    if p >= 1.0:
        return math.inf
    return math.log(p) - math.log1p(-p)
