"""ThinkPRM with the interface of its released class: scripts written for that need only another import.

    from genprm.prms.thinkprm.released import ThinkPRM

    prm = ThinkPRM("launch/ThinkPRM-1.5B", max_length=4096, temperature=0.0, n=1)
    results = prm.predict_correctness_batch(questions, prefix_steps)
    results[0]["prefix_score"], results[0]["step_labels"]

Results differ: `prefix_score` is None, never -1, if no chain decided, and chains without a decision are excluded from
the mean; `step_labels` has one entry per step (1, 0, or None if the chain labels the step neither explicitly nor by
stopping before it); every chain is asked "Is the solution correct?" unless `decision="official"`. `log_odds`,
`n_valid`, `finish` and `raw_labels` are additional keys.

It wraps `ThinkPRMJudge`, which `load_prm` returns and the commands use.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, TypeVar

from genprm.concurrency import gather
from genprm.engines import Engine, EngineKind, load_engine
from genprm.prms.base import PRMError
from genprm.prms.genprm.protocol import SamplingDefaults
from genprm.prms.step_labels import align_labels
from genprm.prms.thinkprm.judge import TRIGGERS, ThinkPRMJudge, ThinkProfile
from genprm.types import Judgement

__all__ = ["ThinkPRM", "ThinkPRMJudge", "ThinkProfile", "ThinkResult"]

T = TypeVar("T")


class ThinkResult(TypedDict):
    """The result for one prefix. The first four keys are those of the released class."""

    step_labels: list[list[int | None]]
    """[chain][step]. After sequential scaling [chain][0], the answer about the whole, as in the released class."""
    inputs: str
    """The prompt, with its chat template."""
    outputs: list[str]
    """Text of each chain, including its decision; after sequential scaling from `<think>` on."""
    prefix_score: float | None
    """Mean of the chains' P(Yes) / (P(Yes) + P(No)) in [0, 1]; None when no chain decided."""
    log_odds: list[float | None]
    """log P(Yes) - log P(No), one per chain: distinguishes scores that both round to 1.0."""
    n_valid: int
    """Chains that decided."""
    finish: list[str]
    """How each chain ended: `verdict`, `degraded` (it reached its token limit), `no_verdict`."""
    raw_labels: list[list[int | None]]
    """[chain][step], also after sequential scaling."""


class ThinkPRM:
    """A ThinkPRM that judges batches. Calls block; an event loop runs in a thread.

    Args:
        model_name_or_path: a model id such as `launch/ThinkPRM-1.5B`, or a folder.
        max_length: most tokens of prompt and chain together.
        seed: makes sampling repeatable.
        n: chains per prefix.
        temperature: temperature of the chains; 0 is greedy.
        decision_temperature: divides the log-odds of the decision.
        enable_prefix_caching: whether prompts with a common prefix share work, if the engine supports the setting.
        max_gen_tokens: longest thinking per round; `max_length` by default, minus the prompt.
        n_thinking_rounds: rounds of thinking of sequential scaling, 1 to 4.
        multiround_verifier: let `predict_correctness_batch` think in several rounds too.
        tensor_parallel_size: GPUs that share the model; None takes all. More than one needs vLLM.
        decision: `forced` or `official`; see `ThinkProfile`.
        profile: the profile, for settings without an argument here.
        engine: an engine's name, or an open engine (which stays open).
        base_urls: servers with the OpenAI completions API that serve the model.
        **engine_options: passed to the engine, such as `gpu_memory_utilization` for vLLM.

    Raises:
        PRMError: arguments that contradict each other.
        EngineError: the model does not load.
    """

    def __init__(
        self,
        model_name_or_path: str,
        max_length: int = 4096,
        seed: int = 0,
        n: int = 1,
        temperature: float = 0.7,
        decision_temperature: float = 1.0,
        enable_prefix_caching: bool = True,
        max_gen_tokens: int | None = None,
        n_thinking_rounds: int = 1,
        multiround_verifier: bool = False,
        tensor_parallel_size: int | None = 1,
        *,
        decision: Literal["forced", "official"] = "forced",
        profile: ThinkProfile | None = None,
        engine: EngineKind | Engine = "auto",
        base_urls: Sequence[str] = (),
        **engine_options: Any,
    ) -> None:
        self.seed = seed
        self.n_thinking_rounds = n_thinking_rounds
        self.multiround_verifier = multiround_verifier
        self.trigger_phrases = list(TRIGGERS)
        once = replace(
            profile or ThinkProfile(),
            decision=decision,
            decision_temperature=decision_temperature,
            max_tokens=max_length if max_gen_tokens is None else max_gen_tokens,
            rounds=1,
            per_step=False,
        )
        again = replace(once, decision="forced", rounds=n_thinking_rounds)
        sampling = SamplingDefaults(temperature, 1.0, 0)
        self._thread = _LoopThread()
        self._owned: Engine | None = None
        try:
            if isinstance(engine, str):
                options = dict(engine_options)
                if engine == "vllm" or (engine == "auto" and not base_urls and _vllm_on_gpu()):
                    engine = "vllm"
                    options.setdefault("enable_prefix_caching", enable_prefix_caching)
                    options.setdefault("max_model_len", max_length)
                    options.setdefault("tensor_parallel_size", tensor_parallel_size or _gpus())
                opening = load_engine(engine, model_name_or_path, base_urls=base_urls, seed=seed, **options)
                engine = self._owned = self._thread.call(opening)
            limited = _Limited(engine, max_length)
            self._once = ThinkPRMJudge(limited, votes=n, profile=once, sampling=sampling)
            self._again = ThinkPRMJudge(limited, votes=n, profile=again, sampling=sampling)
        except BaseException:
            self.close()
            raise

    def predict_correctness_batch(
        self, questions: Sequence[str], prefix_steps_batch: Sequence[Sequence[str]]
    ) -> list[ThinkResult]:
        """Judges solutions, or the first steps of solutions.

        Args:
            questions: the problems.
            prefix_steps_batch: the steps of each.

        Returns:
            One result per question, in order. Equal questions get separate chains.

        Raises:
            PRMError: lengths that differ, or nothing to judge.
            EngineError: the engine could not answer. No score replaces an answer.
        """
        judge = self._again if self.multiround_verifier else self._once
        return self._predict(judge, questions, prefix_steps_batch, whole=False)

    def predict_correctness_batch_sequential_scaling(
        self, questions: Sequence[str], prefix_steps_batch: Sequence[Sequence[str]]
    ) -> list[ThinkResult]:
        """`predict_correctness_batch` with `n_thinking_rounds` rounds of thinking in every chain."""
        return self._predict(self._again, questions, prefix_steps_batch, whole=True)

    def close(self) -> None:
        """Frees the model if this object loaded it. Idempotent."""
        if self._owned is not None:
            self._thread.call(self._owned.close())
            self._owned = None
        self._thread.stop()

    def __enter__(self) -> ThinkPRM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _predict(
        self,
        judge: ThinkPRMJudge,
        questions: Sequence[str],
        prefix_steps_batch: Sequence[Sequence[str]],
        *,
        whole: bool,
    ) -> list[ThinkResult]:
        if len(questions) != len(prefix_steps_batch):
            raise PRMError(f"{len(questions)} questions do not fit {len(prefix_steps_batch)} lists of steps")

        async def all_of_them() -> list[Judgement]:
            rows = enumerate(zip(questions, prefix_steps_batch, strict=True))
            # The position in the batch is part of the seed: equal rows are independent samples.
            return await gather(
                judge.judge(question, steps, seed=self.seed + (index << 32)) for index, (question, steps) in rows
            )

        judged = self._thread.call(all_of_them())
        return [
            _result(judge, question, steps, judgement, whole=whole)
            for question, steps, judgement in zip(questions, prefix_steps_batch, judged, strict=True)
        ]


def _result(
    judge: ThinkPRMJudge, question: str, steps: Sequence[str], judgement: Judgement, *, whole: bool
) -> ThinkResult:
    solution = judgement.solution
    assert solution is not None
    chains = solution.chains
    labels = [[label.value for label in align_labels(chain.text, len(steps))] for chain in chains]
    message = {"role": "user", "content": judge.user_turn(question, steps)}
    answers: list[list[int | None]] = [
        [None if chain.log_odds is None else int(chain.log_odds >= 0)] for chain in chains
    ]
    head = judge.opening[at:] if (at := judge.opening.find("<think>")) >= 0 else ""
    return ThinkResult(
        step_labels=answers if whole else labels,
        inputs=judge.engine.tokenizer.render_chat([message], add_generation_prompt=True) + judge.profile.suffix,
        outputs=[head + chain.text if whole else chain.text for chain in chains],
        prefix_score=solution.score,
        log_odds=[chain.log_odds for chain in chains],
        n_valid=len(chains) - solution.missing,
        finish=[chain.finish.value for chain in chains],
        raw_labels=labels,
    )


class _Limited:
    """An engine with a limited context."""

    def __init__(self, engine: Engine, max_length: int) -> None:
        self.kind = engine.kind
        self.tokenizer = engine.tokenizer
        self.model_name = engine.model_name
        self.max_model_len = min(engine.max_model_len, max_length)
        self.capacity = engine.capacity
        self.cache_tokens = engine.cache_tokens
        self.generate = engine.generate
        self.choice_logprobs = engine.choice_logprobs
        self.prompt_logprobs = engine.prompt_logprobs
        self.close = engine.close


class _LoopThread:
    """An event loop in a thread, which keeps an engine alive."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="genprm-thinkprm", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _vllm_on_gpu() -> bool:
    import importlib.util

    return _gpus() > 0 and importlib.util.find_spec("vllm") is not None


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
