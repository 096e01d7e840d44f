r"""Samples solutions with a policy, and estimates the values of their prefixes with rollouts of a completer.

GenPRM, arXiv 2504.00891, section 3.1 and the released code: solutions begin with a forced `Step 1:`, equal numbers of
right and wrong ones are picked, and the value of a prefix is the share of continuations that reach the reference
answer. Differences from the released code: the prefix ends in `Step 2:` without a trailing space, because tokenizers
put the space at the start of the next word; and sampling stops after `most` solutions (2,048 there).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genprm import prompts
from genprm.concurrency import gather
from genprm.data.steps import join_steps, split_steps
from genprm.engines.base import Engine, Sampling
from genprm.grading.answers import AnswerChecker, Outcome, boxed_answer
from genprm.rpe.budget import State, plan
from genprm.rpe.journal import Journal, Rollout
from genprm.rpe.labels import CONFIDENCE, DEFAULT_THRESHOLDS, Method, dynamic_rollouts, first_wrong, step_labels
from genprm.rpe.posterior import Counts
from genprm.rpe.rows import LabelRow, Samples, SolutionRow, StepLabelRow, ValueRow

if TYPE_CHECKING:
    from genprm.engines.tokenizer import Tokenizer

MOST_ATTEMPTS = 4
"""A prefix fails when this many times the requested rollouts have an unknown outcome."""


class RolloutError(RuntimeError):
    """A prefix cannot be valued: the answers of too many rollouts cannot be compared."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How problems are labelled."""

    solutions: int = 4
    """Solutions to label per problem, half of them right."""
    first: int = 32
    """Solutions in the first round; a separate completer also rolls out this often from the problem alone."""
    more: int = 16
    """Solutions per further round, while right or wrong ones are missing."""
    most: int = 128
    """Most solutions sampled per problem."""
    temperature: float = 0.7
    max_tokens: int = 2048
    """Token limit of a solution and of a continuation."""
    budget: Literal["adaptive", "dynamic"] | int = "adaptive"
    """`dynamic` is equation 9 of the paper; a number is a fixed number of rollouts per step."""
    confidence: float = CONFIDENCE
    """Posterior probability at which an adaptive label is decided."""
    search: bool = False
    """Whether an adaptive budget may decide spans of steps at once; cheaper, but it misses errors with a small
    effect."""
    method: Method = Method.RATIO
    threshold: float | None = None
    """Lowest progress of a right step; None is replaced by the method's default."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLDS[self.method])
        if self.budget == "adaptive" and self.method is not Method.RATIO:
            raise ValueError(f"an adaptive budget decides ratios; use a fixed one for the method {self.method.value!r}")
        if isinstance(self.budget, int) and self.budget < 1:
            raise ValueError(f"the budget must be at least one rollout, not {self.budget!r}")
        if self.solutions < 1 or self.first < 1 or self.more < 1 or self.most < self.first:
            raise ValueError(f"numbers of solutions out of range: {self!r}")


class Labeller:
    """Labels problems. Several problems can be labelled concurrently.

    Args:
        policy: the model that writes solutions.
        completer: the model that continues them; None means the policy.
        checker: compares answers.
        journal: keeps finished rollouts.
        settings: how problems are labelled.
    """

    def __init__(
        self, policy: Engine, completer: Engine | None, checker: AnswerChecker, journal: Journal, settings: Settings
    ) -> None:
        self.policy = policy
        self.completer = completer or policy
        self.checker = checker
        self.journal = journal
        self.settings = settings

    async def label(self, key: str, problem: str, answer: str, identity: str | None = None) -> LabelRow:
        """Samples solutions of a problem, values their prefixes and labels their steps.

        Args:
            key: key of the row.
            problem: the question.
            answer: the reference answer.
            identity: the problem's own id.

        Raises:
            EngineError: an engine failed.
            AnswerError: answers cannot be compared at all.
            RolloutError: a prefix cannot be valued.
        """
        sound = await self.checker.sound(answer)
        if sound is not Outcome.EQUAL:
            reason = f"reference answer: compared with itself it is {sound.value}"
            return LabelRow(key=key, id=identity, problem=problem, answer=answer, dropped=reason, samples=Samples())
        work = _Work(self, key, problem, answer)
        samples, picked = await work.sample()
        dropped = None
        if not samples.right:
            dropped = "never solved"
        elif not samples.wrong:
            dropped = "always solved"
        start, fixed, labelled = None, 0, []
        if dropped is None:
            if self.completer is self.policy:
                # The sampled solutions are rollouts from the problem alone.
                work.values[()] = ValueRow(successes=samples.right, rollouts=samples.right + samples.wrong)
            else:
                await work.roll_out({(): self.settings.first})
            start = work.values[()]
            if not start.successes:
                # Every ratio would be 0/0, and step 1 wrong in right solutions too.
                dropped = "never solved by the completer"
        if start is not None and dropped is None:
            budget = self.settings.budget
            fixed = budget if isinstance(budget, int) else dynamic_rollouts(start.successes / start.rollouts)
            if budget == "adaptive":
                labelled = await work.adaptive(picked, fixed)
            else:
                labelled = await work.all_prefixes(picked, fixed)
            start = work.values[()]
        return LabelRow(
            key=key,
            id=identity,
            problem=problem,
            answer=answer,
            dropped=dropped,
            samples=samples,
            start=start,
            budget=fixed,
            solutions=labelled,
            rollouts=work.rollouts,
            generated=work.generated,
        )


@dataclass(frozen=True, slots=True)
class _Solution:
    steps: tuple[str, ...]
    outcome: Outcome
    copies: int


class _Work:
    """The labelling of one problem."""

    def __init__(self, labeller: Labeller, key: str, problem: str, answer: str) -> None:
        self.of = labeller
        self.settings = labeller.settings
        self.key, self.problem, self.answer = key, problem, answer
        self.values: dict[tuple[str, ...], ValueRow] = {}
        """By prefix, so that solutions with a common prefix share rollouts."""
        self.rollouts = self.generated = 0

    async def sample(self) -> tuple[Samples, list[_Solution]]:
        """Samples solutions until there are enough right and wrong ones, and picks the wanted number of them.

        All samples count in Pass@1. Picks are uniform over the distinct texts, so that a text that was sampled often
        is as likely as one that was sampled once.
        """
        wanted = self.settings.solutions
        texts: list[Rollout] = []
        while True:
            count = self.settings.first if not texts else min(self.settings.more, self.settings.most - len(texts))
            texts += await asyncio.gather(*(self._rollout((), len(texts) + k, whole=True) for k in range(count)))
            kinds: dict[bool, Counter[tuple[str, ...]]] = {True: Counter(), False: Counter()}
            outcomes: dict[tuple[str, ...], Outcome] = {}
            right = wrong = unknown = invalid = 0
            for rollout in texts:
                steps = tuple(split_steps(f"Step 1:{rollout.text}"))
                right += rollout.outcome is Outcome.EQUAL
                wrong += rollout.outcome.known and rollout.outcome is not Outcome.EQUAL
                unknown += not rollout.outcome.known
                if not rollout.finished or len(steps) < 2:
                    invalid += 1
                elif rollout.outcome.known:
                    kinds[rollout.outcome is Outcome.EQUAL][steps] += 1
                    outcomes[steps] = rollout.outcome
            half = (wanted // 2, wanted - wanted // 2)
            enough = len(kinds[True]) >= half[0] and len(kinds[False]) >= half[1]
            if enough or len(texts) >= self.settings.most:
                break
        samples = Samples(right=right, wrong=wrong, unknown=unknown, invalid=invalid)
        picked: list[_Solution] = []
        chance = random.Random(f"{self.settings.seed} {self.key}")
        for is_right, most in ((True, half[0]), (False, half[1])):
            texts_of_kind = sorted(kinds[is_right])
            chosen = chance.sample(texts_of_kind, min(most, len(texts_of_kind)))
            picked += [_Solution(steps, outcomes[steps], kinds[is_right][steps]) for steps in chosen]
        return samples, picked

    async def all_prefixes(self, solutions: Sequence[_Solution], count: int) -> list[SolutionRow]:
        """Values every prefix with the same number of rollouts, and labels the steps up to the first wrong one."""
        prefixes = {s.steps[:length]: count for s in solutions for length in range(1, len(s.steps))}
        await self.roll_out(prefixes)
        rows: list[SolutionRow] = []
        start = self.values[()]
        for solution in solutions:
            values = self._values(solution)
            labels = step_labels(
                [value.successes / value.rollouts for value in values],
                start=start.successes / start.rollouts,
                method=self.settings.method,
                threshold=self.settings.threshold,
                rollouts=[None if value.exact else value.rollouts for value in values],
                start_rollouts=start.rollouts,
            )
            last = next((index for index, label in enumerate(labels) if not label.label), len(labels))
            # A ratio after the first wrong step says only whether the completer recovers from the error.
            made = [
                StepLabelRow(
                    label=label.label if index <= last else None,
                    state=State.DECIDED if index <= last else State.AFTER,
                    progress=label.progress,
                    standard_error=label.standard_error,
                    estimate=label.label if index <= last else None,
                    rollouts=value.rollouts,
                )
                for index, (label, value) in enumerate(zip(labels, values, strict=True))
            ]
            rows.append(self._row(solution, values, made))
        return rows

    async def adaptive(self, solutions: Sequence[_Solution], fixed: int) -> list[SolutionRow]:
        """Rolls out next to undecided steps, one batch per solution at a time."""
        given, threshold = self.values[()].rollouts, self.settings.threshold
        assert threshold is not None
        while True:
            plans = [
                plan(
                    [self._counts(()), *(self._counts(s.steps[:k]) for k in range(1, len(s.steps))), _exact(s)],
                    budget=fixed * (len(s.steps) - 1),
                    given=given,
                    threshold=threshold,
                    confidence=self.settings.confidence,
                    search=self.settings.search,
                )
                for s in solutions
            ]
            asked = {
                s.steps[: p.prefix]: p.rollouts for s, p in zip(solutions, plans, strict=True) if p.prefix is not None
            }
            if not asked:
                break
            await self.roll_out(asked)
        rows: list[SolutionRow] = []
        for solution, final in zip(solutions, plans, strict=True):
            values = self._values(solution)
            made: list[StepLabelRow] = []
            before = self.values[()]
            for label, value in zip(final.labels, values, strict=True):
                step = (
                    step_labels([value.successes / value.rollouts], start=before.successes / before.rollouts)[0]
                    if before.rollouts and value.rollouts
                    else None
                )
                made.append(
                    StepLabelRow(
                        label=label.label,
                        state=label.state,
                        progress=step.progress if step else None,
                        estimate=label.estimate,
                        probability=label.probability,
                        rollouts=value.rollouts,
                    )
                )
                before = value
            rows.append(self._row(solution, values, made))
        return rows

    async def roll_out(self, prefixes: dict[tuple[str, ...], int]) -> None:
        """Adds rollouts to prefixes: the given number for each.

        Rollouts with an unknown outcome are replaced.

        Raises:
            RolloutError: too many rollouts of a prefix have an unknown outcome.
        """
        await gather(self._roll_out(prefix, count) for prefix, count in prefixes.items())

    async def _roll_out(self, prefix: tuple[str, ...], count: int) -> None:
        value = self.values.get(prefix, ValueRow(successes=0, rollouts=0))
        successes, known, unknown = value.successes, value.rollouts, value.unknown
        begun, goal = known, known + count
        # Solutions of the same engine count as rollouts of the problem alone, without numbers of their own.
        number = known + unknown
        while known < goal:
            if unknown - value.unknown > MOST_ATTEMPTS * count:
                raise RolloutError(f"the outcomes of {unknown} rollouts after step {len(prefix)} cannot be compared")
            made = await asyncio.gather(*(self._rollout(prefix, number + k) for k in range(goal - known)))
            number += len(made)
            known += sum(rollout.outcome.known for rollout in made)
            unknown += sum(not rollout.outcome.known for rollout in made)
            successes += sum(rollout.outcome is Outcome.EQUAL for rollout in made)
        self.rollouts += known - begun + unknown - value.unknown
        self.values[prefix] = ValueRow(successes=successes, rollouts=known, unknown=unknown)

    async def _rollout(self, prefix: tuple[str, ...], number: int, *, whole: bool = False) -> Rollout:
        """One continuation, from the journal if possible, else from the engine."""
        engine = self.of.policy if whole else self.of.completer
        what = hashlib.blake2b("\0".join(prefix).encode(), digest_size=8).hexdigest()
        name = f"{'solution' if whole else what}-{number}"
        rollout = self.of.journal.find(self.key, name)
        if rollout is None:
            ids = rollout_prompt(engine.tokenizer, self.problem, prefix)
            seed = hashlib.blake2b(f"{self.settings.seed} {self.key} {name}".encode(), digest_size=4).digest()
            sampling = Sampling(
                self.settings.max_tokens, temperature=self.settings.temperature, seed=int.from_bytes(seed) >> 1
            )
            written = await engine.generate(ids, sampling, chain=f"{self.key} {what}")
            finished = written.finish.complete
            outcome = await self.of.checker.check(self.answer, boxed_answer(written.text) if finished else None)
            rollout = Rollout(outcome, finished, len(written.token_ids), written.text if whole else None)
            self.of.journal.add(self.key, name, rollout)
        self.generated += rollout.generated
        return rollout

    def _counts(self, prefix: tuple[str, ...]) -> Counts:
        value = self.values.get(prefix)
        return Counts() if value is None else Counts(value.successes, value.rollouts)

    def _values(self, solution: _Solution) -> list[ValueRow]:
        none = ValueRow(successes=0, rollouts=0)
        inner = [self.values.get(solution.steps[:length], none) for length in range(1, len(solution.steps))]
        last = ValueRow(successes=int(solution.outcome is Outcome.EQUAL), rollouts=1, exact=True)
        return [*inner, last]

    def _row(self, solution: _Solution, values: list[ValueRow], labels: list[StepLabelRow]) -> SolutionRow:
        return SolutionRow(
            steps=list(solution.steps),
            outcome=solution.outcome,
            copies=solution.copies,
            values=values,
            labels=labels,
            first_error=first_wrong([label.label for label in labels]),
            first_error_estimate=first_wrong([label.estimate for label in labels]),
        )


def rollout_prompt(tokenizer: Tokenizer, problem: str, prefix: Sequence[str]) -> list[int]:
    """Builds the prompt from which a model continues a solution.

    Args:
        tokenizer: the model's tokenizer.
        problem: the question.
        prefix: the steps so far; the prompt ends with the heading of the next one.

    Returns:
        Token ids.
    """
    messages = [
        {"role": "system", "content": prompts.render("policy/system")},
        {"role": "user", "content": problem},
    ]
    return tokenizer.encode_chat(messages, True, join_steps([*prefix, f"Step {len(prefix) + 1}:"]))


def _exact(solution: _Solution) -> Counts:
    return Counts(int(solution.outcome is Outcome.EQUAL), 1, exact=True)
