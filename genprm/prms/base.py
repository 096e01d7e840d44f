"""What every process reward model owes its caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from genprm.engines.admission import Admission
from genprm.engines.base import Engine
from genprm.types import Judgement, StepJudgement

if TYPE_CHECKING:
    from pydantic import JsonValue


class PRMError(RuntimeError):
    """The PRM cannot be built or cannot judge this input: an unknown family, a model that does not fit it, no steps."""


class PRM(Protocol):
    """Judges every step of a solution. Safe for many concurrent calls in one event loop."""

    name: str
    """The model's name or path, for reports."""
    capacity: int
    """Chains in flight from which on the engine is always full; more only wait."""

    @property
    def facts(self) -> dict[str, JsonValue]:
        """How it talks to its model, for the record of a run.

        `model` and `capacity` always; where there are any, `profile`, `engine`, `sampling`, `family`, `sandbox` and
        `sandbox_note`.
        """
        ...

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges a solution.

        Args:
            problem: the question, as text.
            steps: the solution's steps in order, at least one, none of them blank.
            seed: makes sampling repeatable: the same call gives the same judgement wherever the engine repeats itself.

        Raises:
            PRMError: `steps` is empty or holds a blank step.
            ContextOverflowError: the solution with its judgements does not fit the model's context.
            EngineError: the engine could not answer, after its own retries.
            SandboxError: the sandbox itself broke, after its own retry.
        """
        ...

    async def close(self) -> None:
        """Frees engine and sandbox if the PRM opened them. Idempotent."""
        ...


class PartialJudgement(Protocol):
    """The judgement of a solution so far. It never changes, so that several continuations can be judged from it."""

    @property
    def judgement(self) -> Judgement:
        """What was judged so far."""
        ...

    @property
    def length(self) -> int:
        """Tokens of all its chains together."""
        ...

    async def extended(self, step: str) -> PartialJudgement:
        """The judgement of this solution with one more step. Raises what `PRM.judge` raises."""
        ...


@runtime_checkable
class StepwisePRM(Protocol):
    """A PRM that judges a further step without judging again those before it, which is what a beam search asks for."""

    votes: int
    """Chains that judge a solution side by side."""
    admission: Admission
    """Where whoever extends judgements has to get room for them."""

    def begin(self, problem: str, *, seed: int = 0) -> PartialJudgement:
        """An empty judgement. Extended by all steps it is the judgement of the whole solution."""
        ...


class ScoreMap(Protocol):
    """Maps scores to calibrated scores. A higher score never maps to a lower one."""

    def apply_to_step(self, step: StepJudgement, threshold: float) -> StepJudgement:
        """The judgement with its calibrated score, and the verdict by that."""
        ...

    def raw_threshold(self, threshold: float) -> float:
        """The lowest score whose calibrated score is at least `threshold`; infinite where there is none."""
        ...


@runtime_checkable
class CalibratedVotes(Protocol):
    """A PRM that calibrates where it combines a step's votes, so that all it decides by scores is calibrated."""

    calibration: ScoreMap | None


OnStep = Callable[[int, StepJudgement], None]
"""Called with the index of a step and its judgement as soon as all chains have judged it."""


@runtime_checkable
class WatchablePRM(Protocol):
    """A PRM that tells of each step as soon as it is judged."""

    threshold: float
    """The score from which a step is right."""

    async def judge_watched(self, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
        """The same judgement as `PRM.judge`; `on_step` is called for each judged step, in order."""
        ...


async def judge_watched(prm: PRM, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
    """Judges a solution and tells of each step: as soon as it is judged, or at the end by judges that know no sooner.

    Raises what `PRM.judge` raises.
    """
    if isinstance(prm, WatchablePRM):
        return await prm.judge_watched(problem, steps, on_step, seed=seed)
    judgement = await prm.judge(problem, steps, seed=seed)
    for index, step in enumerate(judgement.steps):
        on_step(index, step)
    return judgement


def model_facts(prm: PRM, profile: Any, engine: Engine | None, **more: JsonValue) -> dict[str, JsonValue]:
    """The part of `PRM.facts` that every judge with a model has.

    Args:
        prm: the judge.
        profile: its variant of the protocol, a dataclass.
        engine: its model; None where that is not open.
        **more: what else there is to say.
    """
    return {
        "model": prm.name,
        "capacity": prm.capacity,
        "profile": asdict(profile),
        "engine": None if engine is None else engine.kind,
        **more,
    }
