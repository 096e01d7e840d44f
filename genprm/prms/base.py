"""The interface of every process reward model."""

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
    """Chains in flight that keep the engine full; more only wait."""

    @property
    def facts(self) -> dict[str, JsonValue]:
        """How it uses its model, for the record of a run.

        Always `model` and `capacity`; where they apply, `profile`, `engine`, `sampling`, `family`, `sandbox` and
        `sandbox_note`.
        """
        ...

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges a solution.

        Args:
            problem: the question, as text.
            steps: the solution's steps in order, at least one, none of them blank.
            seed: makes sampling repeatable: the same call gives the same judgement if the engine is deterministic.

        Raises:
            PRMError: `steps` is empty or has a blank step.
            ContextOverflowError: the solution with its judgements does not fit the model's context.
            EngineError: the engine could not answer, after its own retries.
            SandboxError: the sandbox itself broke, after its own retry.
        """
        ...

    async def close(self) -> None:
        """Frees engine and sandbox if the PRM opened them. Idempotent."""
        ...


class PartialJudgement(Protocol):
    """The judgement of a partial solution. Immutable, so that several continuations can be judged from it."""

    @property
    def judgement(self) -> Judgement:
        """The judgement so far."""
        ...

    @property
    def length(self) -> int:
        """Total tokens of all its chains."""
        ...

    async def extended(self, step: str) -> PartialJudgement:
        """Judges one more step and returns the new judgement. Raises what `PRM.judge` raises."""
        ...


@runtime_checkable
class StepwisePRM(Protocol):
    """A PRM that judges a further step without judging earlier steps again, as beam search needs."""

    votes: int
    """Concurrent chains per solution."""
    admission: Admission
    """Callers must reserve room here before they extend judgements."""

    def begin(self, problem: str, *, seed: int = 0) -> PartialJudgement:
        """An empty judgement. Extended by all steps, it is the judgement of the whole solution."""
        ...


class ScoreMap(Protocol):
    """Maps scores to calibrated scores. A higher score never maps to a lower one."""

    def apply_to_step(self, step: StepJudgement, threshold: float) -> StepJudgement:
        """The judgement with its calibrated score and the resulting verdict."""
        ...

    def raw_threshold(self, threshold: float) -> float:
        """The lowest score whose calibrated score is at least `threshold`; infinite if there is none."""
        ...


@runtime_checkable
class CalibratedVotes(Protocol):
    """A PRM that calibrates when it combines a step's votes, so that all its decisions use calibrated scores."""

    calibration: ScoreMap | None


OnStep = Callable[[int, StepJudgement], None]
"""Called with the index of a step and its judgement as soon as all chains have judged it."""


@runtime_checkable
class WatchablePRM(Protocol):
    """A PRM that reports each step as soon as it is judged."""

    threshold: float
    """The lowest score of a right step."""

    async def judge_watched(self, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
        """The same judgement as `PRM.judge`; `on_step` is called for each judged step, in order."""
        ...


async def judge_watched(prm: PRM, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
    """Judges a solution and reports each step as soon as it is judged, or at the end if the judge cannot do so sooner.

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
        profile: its profile, a dataclass.
        engine: its model's engine; None if not open.
        **more: further facts.
    """
    return {
        "model": prm.name,
        "capacity": prm.capacity,
        "profile": asdict(profile),
        "engine": None if engine is None else engine.kind,
        **more,
    }
