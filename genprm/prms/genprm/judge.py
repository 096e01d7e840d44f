"""GenPRM: a generative PRM that writes an analysis and Python for every step, reads the output, and decides.

The protocol is that of the paper (Zhao et al., arXiv 2504.00891) and its released code: three stages of forced decoding
per step, `<analyze>`, `<verify>` with executed code, `<output>` with the verdict. Deliberate differences:

* The score is read at the verdict from raw log-probabilities, not from the sampled top 20 after temperature and top-p.
* Every chain has its own Python session.
* A block is executed once. Invented output is cut off at its start.
* The forced question at the end is asked once. Without a verdict there is no score, rather than 0.5.
* In `code` mode, a turn that ends without a verdict gets this question at once. The released code generates again, up
to three times, after the end of the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from genprm.concurrency import gather
from genprm.config import Mode, Until
from genprm.engines.admission import Admission
from genprm.engines.base import Engine
from genprm.engines.errors import ContextOverflowError
from genprm.prms.base import OnStep, PRMError, ScoreMap, model_facts
from genprm.prms.calls import characters_of, check_steps
from genprm.prms.chat import ChatFrame
from genprm.prms.genprm.adaptive import WAVE, Spending, settled
from genprm.prms.genprm.chain import ChainRun, ChainSetup
from genprm.prms.genprm.protocol import Profile, SamplingDefaults
from genprm.prms.genprm.verdicts import Answers
from genprm.sandbox import Sandbox
from genprm.types import DEFAULT_THRESHOLD, Chain, Judgement, StepJudgement, Tokens, combine_chains

if TYPE_CHECKING:
    from pydantic import JsonValue


class GenPRM:
    """Judges steps with a model of the GenPRM family.

    Args:
        engine: the model.
        sandbox: where code runs; needed only if the mode executes code.
        mode: how much of the protocol to use.
        votes: chains per solution, each with its own history and session; their scores are averaged.
        profile: the variant of the protocol.
        sampling: how chains are sampled.
        threshold: the score from which a step is right.
        spending: when it stops. If voting on a step stops early, a chain that skipped the step continues from the first
            chain's conversation and runs its snippets. From then on it is a copy of that chain: its votes are not
            independent, which `Chain.copied` records.
        calibration: maps the mean of a step's votes to the score that is used for the verdict, for `until` and for
            `confidence`. Chains keep their raw scores.

    Raises:
        PRMError: the tokenizer or an argument does not suit the protocol.
    """

    def __init__(
        self,
        engine: Engine,
        sandbox: Sandbox | None = None,
        *,
        mode: Mode = Mode.EXECUTE,
        votes: int = 1,
        profile: Profile = Profile(),
        sampling: SamplingDefaults = SamplingDefaults(),
        threshold: float = DEFAULT_THRESHOLD,
        spending: Spending = Spending(),
        calibration: ScoreMap | None = None,
    ) -> None:
        if mode.executes and sandbox is None:
            raise PRMError("executing code needs a sandbox: pass one, or choose another mode")
        if votes < 1:
            raise PRMError(f"votes must be at least 1, not {votes!r}")
        self.engine = engine
        self.sandbox = sandbox
        self.mode = mode
        self.votes = votes
        self.profile = profile
        self.sampling = sampling
        self.threshold = threshold
        self.name = engine.model_name
        self.capacity = engine.capacity
        self.until, self.confidence = spending.until, spending.confidence
        self.calibration = calibration
        self.owned: AsyncExitStack | None = None
        """Closed by `close`: the engine and sandbox opened for this judge."""
        self.admission = Admission(engine.cache_tokens, engine.max_model_len)
        frame, answers = ChatFrame.of(engine.tokenizer), Answers.of(engine.tokenizer)
        self.setup = ChainSetup(engine, sandbox, mode, profile, sampling, spending.certainty, frame, answers)
        """Settings shared by its chains."""

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges every step of a solution; see `genprm.prms.base.PRM`."""
        return await self.judge_watched(problem, steps, lambda _index, _step: None, seed=seed)

    async def judge_watched(self, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
        """Judges every step and reports each; see `genprm.prms.base.WatchablePRM`."""
        check_steps(steps)
        if self.until is Until.END:
            self._check_room(problem, steps)
        async with self.admission.place(characters_of(problem, steps), self.votes) as place:
            async with AsyncExitStack() as stack:
                runs = [ChainRun(self.setup, problem, seed, vote, stack) for vote in range(self.votes)]
                by_step = await self._judge_steps(runs, steps, on_step)
                place.tokens = sum(run.length for run in runs)
            return self.judgement_of(by_step, len(steps))

    def _check_room(self, problem: str, steps: Sequence[str]) -> None:
        """Refuses a solution that cannot fit the context, before hours go into its first steps.

        Raises:
            ContextOverflowError: its text and the forced part of every judgement alone are too long.
        """
        encode, room = self.engine.tokenizer.encode, self.engine.max_model_len
        opening = self.setup.opening(0)
        # A token stands for a byte at least: what is short in bytes fits for sure.
        if len("".join((problem, *steps)).encode()) + len(steps) * len(opening) <= room:
            return
        least = len(encode(problem)) + sum(len(encode(step)) for step in steps) + len(steps) * len(encode(opening))
        if least > room:
            raise ContextOverflowError(
                f"the problem and its {len(steps):,} steps take {least:,} tokens before anything is judged, and the "
                f"context of {self.name!r} has {room:,}: judge the solution in parts"
            )

    async def _judge_steps(self, runs: Sequence[ChainRun], steps: Sequence[str], on_step: OnStep) -> list[list[Chain]]:
        """The chains on each judged step."""
        if self.until is Until.END and self.confidence is None:
            # Chains do not wait for each other: a step is finished when the slowest chain has judged it.
            paths: list[list[Chain]] = [[] for _ in runs]

            async def follow(run: ChainRun, path: list[Chain]) -> None:
                for index, step in enumerate(steps):
                    path.append(await run.step(index, step))
                    if all(len(other) > index for other in paths):
                        on_step(index, self.combine([other[index] for other in paths]))

            await gather(follow(run, path) for run, path in zip(runs, paths, strict=True))
            return [list(chains) for chains in zip(*paths, strict=True)]
        by_step: list[list[Chain]] = []
        for index, step in enumerate(steps):
            by_step.append(await self._vote(runs, index, step))
            judged = self.combine(by_step[-1])
            on_step(index, judged)
            if self.until is Until.FIRST_ERROR and judged.score is not None and judged.score < self.threshold:
                break
        return by_step

    def begin(self, problem: str, *, seed: int = 0) -> PartialGenPRMJudgement:
        """An empty judgement, to be extended step by step; see `genprm.prms.base.StepwisePRM`."""
        runs = [ChainRun(self.setup, problem, seed, vote, AsyncExitStack()) for vote in range(self.votes)]
        return PartialGenPRMJudgement(self, runs, [])

    async def _vote(self, runs: Sequence[ChainRun], index: int, step: str) -> list[Chain]:
        """Chains on one step: all of them, or enough to settle the verdict."""
        wave = len(runs) if self.confidence is None else WAVE
        # Averaged before calibration.
        calibration, threshold = self.calibration, self.threshold
        mean_needed = threshold if calibration is None else calibration.raw_threshold(threshold)
        chains: list[Chain] = []
        while len(chains) < len(runs):
            asked = runs[len(chains) : len(chains) + wave]
            chains += await gather(run.step(index, step) for run in asked)
            scores = [chain.score for chain in chains if chain.score is not None]
            if self.confidence is not None and settled(scores, len(runs), mean_needed, self.confidence):
                break
        for run in runs[len(chains) :]:
            run.adopt(runs[0])
        return chains

    def combine(self, chains: Sequence[Chain]) -> StepJudgement:
        """The judgement of a step from its chains: their mean, calibrated if the judge is."""
        judged = combine_chains(chains, self.threshold)
        return judged if self.calibration is None else self.calibration.apply_to_step(judged, self.threshold)

    def judgement_of(self, by_step: Sequence[Sequence[Chain]], steps: int) -> Judgement:
        """The judgement of a solution with `steps` steps from its chains, [step][vote] for the judged steps."""
        judged = [self.combine(chains) for chains in by_step]
        left = StepJudgement(None, None, None, (), reason="not judged: it comes after the first wrong step")
        spent = sum((chain.tokens for chains in by_step for chain in chains), Tokens())
        asked = sum(len(chains) for chains in by_step)
        # Estimates each skipped rationale by the mean cost of this solution's rationales.
        saved = round(spent.generated / asked * (steps * self.votes - asked)) if asked else 0
        return Judgement((*judged, *[left] * (steps - len(judged))), self.threshold, spent, saved)

    @property
    def facts(self) -> dict[str, JsonValue]:
        """See `genprm.prms.base.PRM`."""
        facts = model_facts(self, self.profile, self.engine, sampling=asdict(self.sampling))
        if self.sandbox is not None:
            facts |= {"sandbox": self.sandbox.backend, "sandbox_note": self.sandbox.note}
        return facts

    async def close(self) -> None:
        """Closes what was opened for this judge; see `genprm.prms.base.PRM`."""
        if self.owned is not None:
            await self.owned.aclose()


class PartialGenPRMJudgement:
    """The judgement of a partial solution, from which several continuations can be judged."""

    def __init__(self, prm: GenPRM, runs: Sequence[ChainRun], by_step: Sequence[Sequence[Chain]]) -> None:
        self._prm = prm
        self._runs = runs
        self._by_step = by_step

    @property
    def judgement(self) -> Judgement:
        """The judgement so far."""
        return self._prm.judgement_of(self._by_step, len(self._by_step))

    @property
    def length(self) -> int:
        """Total tokens of all its chains."""
        return sum(run.length for run in self._runs)

    async def extended(self, step: str) -> PartialGenPRMJudgement:
        """Judges one more step and returns the new judgement; this one is unchanged."""
        check_steps([step])
        async with AsyncExitStack() as stack:
            runs = [run.fork(stack) for run in self._runs]
            chains = await gather(run.step(len(self._by_step), step) for run in runs)
            return PartialGenPRMJudgement(self._prm, runs, [*self._by_step, chains])
