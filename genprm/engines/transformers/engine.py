"""An engine on plain PyTorch, for any device that transformers runs on.

Waiting requests are decoded together, and a request is answered as soon as it is done. It is meant for small models
and small machines. It keeps a gibibyte of keys and values, and computes only the part of a prompt that no recent one
began with. The vLLM engine, whose prefix cache is as large as the memory allows, is for real work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import transformers

from genprm.engines.base import Completion, Sampling
from genprm.engines.errors import EngineError
from genprm.engines.requests import check_choices, check_ids, fit_sampling
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.transformers.decoder import Decoder, Generation, deliver
from genprm.engines.transformers.int8 import to_int8
from genprm.engines.weights import check_report
from genprm.spent import Part, spent_in

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ATTENTION = {"full_attention", "sliding_attention"}
"""Layer types whose state is keys and values, which is what a batch that rows join and leave can keep."""


@dataclass(eq=False, slots=True)
class _Score:
    """Log-probabilities wanted: of next tokens, or of the prompt's own tokens."""

    ids: Sequence[int]
    choices: Sequence[int] | None
    future: Future[list[float]]


@dataclass(eq=False, slots=True)
class _Call:
    """Something to do with the model."""

    function: Callable[[Any], Any]
    future: Future[Any]


class TransformersEngine:
    """A transformers model behind the `Engine` protocol.

    One thread owns the model. Between two tokens it takes in waiting requests, oldest first. In float32, greedy and
    seeded results do not depend on what else is being decoded.

    Args:
        model: a causal language model; put into evaluation mode.
        tokenizer: its tokenizer.
        model_name: what the model is called in results.
        max_num_seqs: sequences decoded at once.
        max_model_len: tokens of prompt and completion together; by default what the model was made for.
        prefill_tokens: prompt tokens, padding included, computed between two decoding steps. More is better use of a
            GPU, fewer make those already decoding wait less.
        seed: seed of requests without one.
    """

    kind = "transformers"

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        model_name: str,
        max_num_seqs: int = 32,
        max_model_len: int | None = None,
        prefill_tokens: int = 8192,
        seed: int = 0,
    ) -> None:
        if max_num_seqs < 1 or prefill_tokens < 1:
            raise ValueError(
                f"max_num_seqs and prefill_tokens must be at least 1: {max_num_seqs!r}, {prefill_tokens!r}"
            )
        config: Any = model.config.get_text_config()
        if odd := set(getattr(config, "layer_types", None) or ()) - _ATTENTION:
            raise EngineError(f"{model_name!r} has layers of type {sorted(odd)}: use the vllm engine for it")
        self.tokenizer = tokenizer
        self.model_name = model_name
        limit: int | None = getattr(config, "max_position_embeddings", None)
        if max_model_len is not None and limit is not None and max_model_len > limit:
            raise EngineError(
                f"max_model_len {max_model_len!r} is more than the {limit} tokens {model_name!r} was made for"
            )
        if max_model_len is None and limit is None:
            raise EngineError(f"{model_name!r} does not say how long its context is: set max_model_len")
        self.max_model_len: int = max_model_len or limit or 0
        self.capacity = max_num_seqs
        self.cache_tokens: int | None = None
        self.model: transformers.PreTrainedModel | None = model.eval()
        """The model; None once closed. While the engine is open, use it through `run_model` only."""
        self._vocab_size: int = config.vocab_size
        self._prefill_tokens = prefill_tokens
        self._rng = random.Random(seed)
        ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        eos_ids = tokenizer.eos_ids | ({ends} if isinstance(ends, int) else set(ends or ()))
        self._decoder = Decoder(model, tokenizer, eos_ids, max_num_seqs)
        self._generations: deque[Generation] = deque()
        self._scores: deque[_Score] = deque()
        self._calls: deque[_Call] = deque()
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="genprm-transformers", daemon=True)
        self._thread.start()

    @classmethod
    async def load(
        cls,
        model: str,
        *,
        tokenizer: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        auto_class: str | type[transformers.PreTrainedModel] = "AutoModelForCausalLM",
        **options: Any,
    ) -> TransformersEngine:
        """Loads a model from a local folder or the Hub.

        Args:
            model: folder or model id.
            tokenizer: folder or id of the tokenizer, where it is not the model's.
            revision: revision of the model on the Hub.
            dtype: a torch type such as `bfloat16`; `auto` is float32 on a CPU, else what the model was saved in. `int8`
                computes linear layers in eight bits, on a CPU only.
            device: such as `cuda:1`; by default an accelerator if there is one.
            threads: cores that a model on the CPU computes with, for all of this process; by default all but one, which
                is left to the sandbox and the event loop: threads that wait for each other lose more than a core.
            attn_implementation: how transformers computes attention.
            trust_remote_code: whether code that comes with the model may run.
            auto_class: class that loads the model, or its name in transformers. Only a causal language model can
                generate and score.
            **options: `max_num_seqs`, `max_model_len`, `prefill_tokens`, `seed`: see the class.

        Raises:
            EngineError: the model or tokenizer does not load, or the checkpoint lacks some of the model's weights.
        """

        def load() -> TransformersEngine:
            where = torch.device(device or _best_device())
            if where.type == "cpu":
                torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) - 1))
            wanted: Any = dtype if dtype != "auto" or where.type != "cpu" else "float32"
            if dtype == "int8":
                if where.type != "cpu":
                    raise EngineError(f"int8 weights are for models on the CPU, not on {str(where)!r}: use bfloat16")
                wanted = "float32"
            text = Tokenizer.from_pretrained(tokenizer or model, None if tokenizer else revision)
            try:
                loader: Any = getattr(transformers, auto_class) if isinstance(auto_class, str) else auto_class
                network, report = loader.from_pretrained(
                    model,
                    revision=revision,
                    dtype=wanted,
                    attn_implementation=attn_implementation,
                    trust_remote_code=trust_remote_code,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # refused below, by name
                )
                check_report(model, type(network).__name__, report)
                if dtype == "int8":
                    to_int8(network)
                return cls(network.to(where), text, model_name=model, **options)
            except (OSError, ValueError, RuntimeError, AttributeError, ImportError) as error:
                raise EngineError(f"the model {model!r} does not load: {error}") from error

        return await asyncio.to_thread(load)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        """Continues a prompt: see `Engine`."""
        sampling = fit_sampling(prompt_ids, sampling, self._vocab_size, self.max_model_len)
        rng = random.Random(self._rng.random() if sampling.seed is None else sampling.seed)
        job = Generation(prompt_ids, sampling, rng, Future())
        return await self._submit(self._generations, job, job.future)

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        """Scores next tokens: see `Engine`."""
        check_ids(prompt_ids, self._vocab_size, self.max_model_len)
        check_choices(choices, self._vocab_size)
        job = _Score(prompt_ids, choices, Future())
        return await self._submit(self._scores, job, job.future)

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Scores the tokens of a prompt: see `Engine`."""
        check_ids(ids, self._vocab_size, self.max_model_len)
        job = _Score(ids, None, Future())
        return await self._submit(self._scores, job, job.future)

    async def run_model(self, function: Callable[[Any], T]) -> T:
        """Runs a function with the model (a `torch.nn.Module`), in inference mode, while nothing else uses it.

        Exceptions of the function are raised here.
        """
        job = _Call(function, Future())
        return await self._submit(self._calls, job, job.future)

    async def close(self) -> None:
        """Ends the thread and releases the model: see `Engine`."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        self.model = None

    @property
    def pending(self) -> int:
        """Number of waiting and active requests."""
        return len(self._generations) + len(self._scores) + len(self._calls) + len(self._decoder.generations)

    async def _submit(self, queue: deque[Any], job: object, future: Future[T]) -> T:
        with self._wake:
            if self._closed:
                raise EngineError("the engine is closed")
            queue.append(job)
            self._wake.notify()
        # Cancelling the caller cancels the future, which tells the thread.
        with spent_in(Part.ENGINE):
            return await asyncio.wrap_future(future)

    def _work(self) -> None:
        with torch.inference_mode():
            while self._wait():
                # One round of each in turn, so that no kind of request can starve another.
                while self._calls:
                    call = self._calls.popleft()
                    try:
                        deliver(call.future, call.function(self.model))
                    except Exception as error:  # raised by the caller's own function
                        deliver(call.future, error)
                if scores := _next_batch(self._scores, self._prefill_tokens, lambda job: len(job.ids)):
                    self._attempt(partial(self._score, scores), scores)
                free = self._decoder.free
                if new := _next_batch(self._generations, self._prefill_tokens, self._decoder.look_up, free):
                    self._attempt(partial(self._decoder.admit, new), new)
                if not self._attempt(self._decoder.step, self._decoder.generations):
                    self._decoder.clear()
        closed = EngineError("the engine was closed")
        for job in (*self._decoder.clear(), *self._generations, *self._scores, *self._calls):
            deliver(job.future, closed)
        del self._decoder

    def _wait(self) -> bool:
        """Waits for work; returns False once the engine is closed."""
        with self._wake:
            while not (self._closed or self._generations or self._scores or self._calls or self._decoder.generations):
                self._wake.wait()
            return not self._closed

    def _attempt(self, work: Callable[[], None], jobs: Sequence[Generation | _Score]) -> bool:
        """Does a piece of work; if it fails (out of memory, say), its requests get the error."""
        try:
            work()
        except Exception as error:
            logger.exception("%s failed on %d requests", self.model_name, len(jobs))
            for job in jobs:
                deliver(job.future, EngineError(f"the model failed: {error}"))
            return False
        return True

    def _score(self, jobs: Sequence[_Score]) -> None:
        if wanted := [(job, job.choices) for job in jobs if job.choices is not None]:
            rows = self._decoder.choice_logprobs([job.ids for job, _ in wanted], [choices for _, choices in wanted])
            for (job, _), row in zip(wanted, rows, strict=True):
                deliver(job.future, row)
        if prompts := [job for job in jobs if job.choices is None]:
            for job, row in zip(prompts, self._decoder.prompt_logprobs([job.ids for job in prompts]), strict=True):
                deliver(job.future, row)


J = TypeVar("J", Generation, _Score)


def _next_batch(queue: deque[J], tokens: int, length: Callable[[J], int], limit: int = 256) -> list[J]:
    """Takes the oldest uncancelled requests: as many as fit into `tokens` with padding, but at least one."""
    batch: list[J] = []
    width = 0
    while queue and len(batch) < limit:
        if queue[0].future.cancelled():
            queue.popleft()
            continue
        width = max(width, length(queue[0]))
        if batch and width * (len(batch) + 1) > tokens:
            break
        batch.append(queue.popleft())
    return batch


def _best_device() -> str:
    accelerator = torch.accelerator.current_accelerator()
    return "cpu" if accelerator is None or not torch.accelerator.is_available() else accelerator.type
