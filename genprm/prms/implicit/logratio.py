r"""The arithmetic of implicit PRMs: the tokens of each step, and rewards from log-ratios.

A model trained with r(y) = beta * log(pi(y) / pi_ref(y)) as its outcome reward is a process reward model for free (Yuan
et al., arXiv 2412.01981): q_t, the sum of beta times the log-ratios up to token t, is the expected reward of the text
so far, and a step's own reward is the difference between q at its end and at its start.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from genprm.engines.tokenizer import Mark, Tokenizer, Trusted, Untrusted
from genprm.prms.base import PRMError
from genprm.prms.chat import chat_pieces
from genprm.prms.step_labels import unlabelled

_START, _STEP_END = Mark("start"), Mark("step end")
NO_REFERENCE = "none"
"""Reference name meaning no reference model."""
DEFAULT_BETA = 0.001
"""The scale used with the released models. Rankings do not depend on it; thresholds other than 0.5 do."""


class ImplicitMode(StrEnum):
    """Where a step ends."""

    CLEAN = "clean"
    """At the blank line after it; the end of the turn belongs to the last step."""
    UPSTREAM = "upstream"
    """As in the released ProcessBench script: after as many tokens as the chat up to that step has when rendered with
        its closing, which reaches one or two tokens into the next step."""


class Reward(StrEnum):
    """Which of the two rewards is the score of a step."""

    CUMULATIVE = "cumulative"
    """q at the end of the step, the reward of the whole prefix. The ProcessBench script thresholds this."""
    SINGLE = "single"
    """The step's own contribution to q."""


class Reduce(StrEnum):
    """How rewards of steps become one number for the solution."""

    MIN = "min"
    SUM = "sum"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class ImplicitProfile:
    """The reference of an implicit PRM, and how its rewards are read."""

    reference: str | None = None
    """The reference model: a folder or a model id; `none` means no reference model. None when unknown."""
    beta: float = DEFAULT_BETA
    """The scale of rewards, above 0."""
    mode: ImplicitMode = ImplicitMode.CLEAN
    reward: Reward = Reward.CUMULATIVE
    """Which reward is the score."""
    reference_revision: str | None = None
    """Branch, tag or commit of `reference` on the Hub."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise PRMError(f"profile.beta must be above 0, not {self.beta!r}")


@dataclass(frozen=True, slots=True)
class Spans:
    """A chat with a solution, and where its steps end."""

    ids: list[int]
    start: int
    """Index of the first token that counts."""
    ends: list[int]
    """For each step, the index after its last token."""


@dataclass(frozen=True, slots=True)
class ImplicitRewards:
    """An implicit PRM's rewards for a solution, in units of beta times nats."""

    single: tuple[float, ...]
    """Each step's own reward."""
    cumulative: tuple[float, ...]
    """q at the end of each step: the running sum of `single`."""

    def reduce(self, how: Reduce, of: Reward = Reward.SINGLE) -> float:
        """One number for the solution. `LAST` of the cumulative rewards is the outcome reward of the whole solution."""
        values = self.single if of is Reward.SINGLE else self.cumulative
        match how:
            case Reduce.MIN:
                return min(values)
            case Reduce.SUM:
                return math.fsum(values)
            case Reduce.LAST:
                return values[-1]


def detect_implicit(name: str) -> ImplicitProfile | None:
    """The profile of a released implicit PRM, by its name; None for other models.

    Args:
        name: the model's id or path. Its `config.json` is that of any causal language model.
    """
    lower = name.lower()
    if "eurusprm" in lower:
        return ImplicitProfile("Qwen/Qwen2.5-Math-7B-Instruct")
    if "implicitprm" in lower:
        return ImplicitProfile("meta-llama/Llama-3.1-8B-Instruct")
    return None


class ChatSpans:
    """Formats solutions as chats; the template is rendered only once.

    Args:
        tokenizer: the PRM's.
        mode: where steps end.

    Raises:
        EngineError: there is no chat template.
        PRMError: the template does not keep messages in order.
    """

    def __init__(self, tokenizer: Tokenizer, mode: ImplicitMode = ImplicitMode.CLEAN) -> None:
        self._tokenizer = tokenizer
        self._mode = mode
        self._before_user, self._before_assistant, closing = chat_pieces(tokenizer, ("user", "assistant"))
        # Text after the end of the turn is never scored.
        self._closing = closing.rstrip()

    def __call__(self, problem: str, steps: Sequence[str]) -> Spans:
        """Formats a solution, each step labelled `Step 1: ` and so on.

        Args:
            problem: the question.
            steps: the steps; an existing label is replaced in `CLEAN` mode and doubled in `UPSTREAM` mode, as in the
                released script.
        """
        clean = self._mode is ImplicitMode.CLEAN
        problem = problem.strip() if clean else problem
        plain = unlabelled(steps) if clean else steps
        texts = [f"Step {number}: {step}" for number, step in enumerate(plain, start=1)]
        head = [Trusted(self._before_user), Untrusted(problem), Trusted(self._before_assistant)]
        body = [part for text in texts for part in (Trusted("\n\n"), _STEP_END, Untrusted(text))]
        # A step ends after the following blank line, the last one after the end of the turn.
        marked = self._tokenizer.encode_marked(*head, _START, *body[2:], Trusted(self._closing), _STEP_END)
        if clean:
            return Spans(marked.ids, marked.ends[_START.name][0], marked.ends[_STEP_END.name])
        lengths = [self._prefix_length(head, texts, count) for count in range(len(steps) + 1)]
        return Spans(marked.ids, max(1, lengths[0] - 1), [min(length, len(marked.ids)) for length in lengths[1:]])

    def _prefix_length(self, head: Sequence[Trusted | Untrusted], texts: Sequence[str], count: int) -> int:
        """Tokens of the chat with only the first steps, closed and stripped, plus a blank line between steps."""
        closing = self._closing
        if closing == "<|eot_id|>" and count < len(texts):
            # Removed for Llama 3, whose steps therefore end correctly.
            closing = ""
        text, between = "\n\n".join(texts[:count]), "\n\n" if 0 < count < len(texts) else ""
        parts = [*head, Untrusted(text), Trusted(closing)]
        while parts and not parts[-1].rstrip():
            parts.pop()
        parts[-1] = type(parts[-1])(parts[-1].rstrip())
        return len(self._tokenizer.encode_parts(*parts, Trusted(between)))


def rewards(spans: Spans, logratios: Sequence[float], beta: float) -> ImplicitRewards:
    """Sums log-ratios by step.

    Args:
        spans: where steps end.
        logratios: log pi - log pi_ref, in nats, of every token from `spans.start` on.
        beta: the scale of the rewards.
    """
    bounds = [0, *(end - spans.start for end in spans.ends)]
    cumulative = [beta * math.fsum(logratios[:bound]) for bound in bounds]
    single = [after - before for before, after in itertools.pairwise(cumulative)]
    return ImplicitRewards(tuple(single), tuple(cumulative[1:]))
