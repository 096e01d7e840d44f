"""The production engine: vLLM in this process, with its prefix cache."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Generator, Sequence
from typing import Any

from genprm.engines.base import Completion, Sampling
from genprm.engines.errors import EngineError
from genprm.engines.requests import InFlight, check_choices, check_ids, fit_sampling
from genprm.engines.stops import REPEATED_LEAST, REPEATED_MOST, REPEATED_TIMES, completion
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.vllm_worker import EndsWithDriver
from genprm.engines.weights import check_checkpoint

CPU_BLOCK_SIZE = 32
"""The smallest block of vLLM's CPU attention: only whole blocks of a prefix are cached."""

CPU_CACHE_BYTES = 2 * 1024**3
"""Size of the KV cache on a CPU, where vLLM would otherwise take most of the machine's memory."""


class VllmEngine:
    """A vLLM `AsyncLLM` behind the `Engine` protocol. Open it with `load`.

    Args:
        llm: a running `vllm.v1.engine.async_llm.AsyncLLM`.
        tokenizer: the model's tokenizer.
        model_name: name of the model in results.
    """

    kind = "vllm"

    def __init__(self, llm: Any, tokenizer: Tokenizer, *, model_name: str) -> None:
        config = llm.vllm_config
        self.tokenizer = tokenizer
        self.model_name = model_name
        self.max_model_len: int = config.model_config.max_model_len
        self.capacity: int = config.scheduler_config.max_num_seqs
        blocks: int | None = config.cache_config.num_gpu_blocks
        self.cache_tokens: int | None = blocks * config.cache_config.block_size if blocks else None
        self.llm: Any = llm
        """The `AsyncLLM`; None once closed."""
        self._vocab_size: int = config.model_config.get_vocab_size()
        self._in_flight = InFlight()
        self._request_ids = itertools.count()

    @classmethod
    async def load(
        cls,
        model: str,
        *,
        tokenizer: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        seed: int = 0,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        **options: Any,
    ) -> VllmEngine:
        """Starts vLLM with a model from a local folder or the Hub.

        Args:
            model: folder or model id.
            tokenizer: folder or id of the tokenizer, if it is not the model's.
            revision: revision of the model on the Hub.
            dtype: type of the weights, such as `bfloat16`; `auto` is float32 on a CPU, else the model's own.
            seed: seed of requests without one.
            tensor_parallel_size: GPUs that share the model.
            gpu_memory_utilization: share of each GPU's memory for vLLM.
            max_model_len: tokens of prompt and completion together; by default the model's own limit.
            max_num_seqs: sequences decoded at once; by default vLLM's choice for the device.
            **options: any other field of `vllm.AsyncEngineArgs`.

        Raises:
            EngineError: vLLM is not installed or does not start, or the checkpoint lacks some of the model's weights.
        """
        # vLLM logs pages at every start; show only its warnings by default.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from vllm import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
            from vllm.v1.executor.uniproc_executor import UniProcExecutor
        except ImportError as error:
            raise EngineError(f"vLLM cannot be imported ({error}): pip install 'genprm[vllm]'") from error

        if current_platform.is_cpu():
            dtype = "float32" if dtype == "auto" else dtype
            # Without this, a seeded request whose prompt is computed in parts crashes the engine on a CPU: vLLM undoes
            # the sample between parts by the generator's offset, which CPU generators do not have.
            options = {"block_size": CPU_BLOCK_SIZE, "enforce_eager": True, "enable_chunked_prefill": False} | options
            if tensor_parallel_size == 1:
                # The worker runs in the engine's process: two processes would wait for each other by spinning.
                options = {"distributed_executor_backend": UniProcExecutor} | options
            if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
                options = {"kv_cache_memory_bytes": CPU_CACHE_BYTES} | options
        fields: dict[str, Any] = {
            "model": model,
            "tokenizer": tokenizer,
            "revision": revision,
            "tokenizer_revision": None if tokenizer else revision,
            "dtype": dtype,
            "seed": seed,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "enable_prefix_caching": True,
            # Temperature and top-p/top-k must not affect the scores of verdicts.
            "logprobs_mode": "raw_logprobs",
            "disable_log_stats": True,
            "enable_log_requests": False,
            "worker_extension_cls": f"{EndsWithDriver.__module__}.{EndsWithDriver.__qualname__}",
        }
        text = await asyncio.to_thread(Tokenizer.from_pretrained, tokenizer or model, None if tokenizer else revision)
        await asyncio.to_thread(check_checkpoint, model, revision)
        try:
            # AsyncLLM binds to the running event loop, so it is created here and not in a thread.
            with _cores_left(current_platform.is_cpu()):
                llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**(fields | options)))
            if "worker_extension_cls" not in options:
                await llm.collective_rpc("end_with", args=(os.getpid(),))
        except Exception as error:  # of pydantic, torch, a worker: anything that prevents the start
            raise EngineError(f"vLLM does not start with {model!r}: {error}") from error
        return cls(llm, text, model_name=model)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        """Continues a prompt: see `Engine`."""
        from vllm.sampling_params import RepetitionDetectionParams

        sampling = fit_sampling(prompt_ids, sampling, self._vocab_size, self.max_model_len)
        output = await self._request(
            prompt_ids,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            stop=list(sampling.stop),
            stop_token_ids=sorted(self.tokenizer.eos_ids),
            include_stop_str_in_output=True,
            detokenize=bool(sampling.stop),
            repetition_detection=RepetitionDetectionParams(REPEATED_MOST, REPEATED_LEAST, REPEATED_TIMES),
            **({"logprob_token_ids": sorted(set(sampling.watch))} if sampling.watch else {}),
        )
        written = output.outputs[0]
        rows = written.logprobs if sampling.watch else ()
        return completion(
            self.tokenizer,
            list(written.token_ids),
            sampling.stop,
            # The reason is a stop string or a token.
            ended=written.finish_reason == "stop" and not isinstance(written.stop_reason, str),
            cached_tokens=output.num_cached_tokens or 0,
            watched=[tuple(float(row[token].logprob) for token in sampling.watch) for row in rows],
        )

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        """Scores next tokens: see `Engine`."""
        check_ids(prompt_ids, self._vocab_size, self.max_model_len)
        check_choices(choices, self._vocab_size)
        output = await self._request(
            prompt_ids, max_tokens=1, temperature=1.0, logprob_token_ids=sorted(set(choices)), detokenize=False
        )
        scores = output.outputs[0].logprobs[0]
        return [float(scores[choice].logprob) for choice in choices]

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Scores the tokens of a prompt: see `Engine`."""
        check_ids(ids, self._vocab_size, self.max_model_len)
        output = await self._request(ids, max_tokens=1, temperature=1.0, prompt_logprobs=0, detokenize=False)
        rows = output.prompt_logprobs[1:]
        return [float(row[token].logprob) for token, row in zip(ids[1:], rows, strict=True)]

    async def pool(self, ids: Sequence[int], *, step_tag: int | None = None) -> list[list[float]]:
        """Scores tokens with a classification head: see `genprm.engines.base.PoolingEngine`.

        Raises:
            EngineError: the model was not loaded with `runner="pooling"`, or vLLM cannot answer.
        """
        from vllm import PoolingParams

        # One token longer than a prompt to be continued.
        check_ids(ids, self._vocab_size, self.max_model_len + 1)
        params = PoolingParams(task="token_classify", use_activation=False, step_tag_id=step_tag)
        output = await self._in_flight.run(self._final(ids, params))
        return output.outputs.data.tolist()

    async def close(self) -> None:
        """Ends vLLM's processes: see `Engine`."""
        if not self._in_flight.closed:
            await self._in_flight.close()
            # Otherwise it would report the end of the engine's process as a failure.
            if (handler := getattr(self.llm, "output_handler", None)) is not None:
                handler.cancel()
            await asyncio.to_thread(self.llm.shutdown)
            await asyncio.to_thread(_end_messaging, self.llm)
            # It would shut down again when freed, and complain if the interpreter is exiting.
            self.llm.shutdown = _nothing
            self.llm = None

    async def _request(self, prompt_ids: Sequence[int], **params: Any) -> Any:
        """Sends one request; returns vLLM's final `RequestOutput`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        try:
            sampling_params = SamplingParams(
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_special_tokens=False,
                spaces_between_special_tokens=False,
                **params,
            )
        except ValueError as error:
            raise EngineError(f"vLLM could not answer: {error!r}") from error
        return await self._in_flight.run(self._final(prompt_ids, sampling_params))

    async def _final(self, prompt_ids: Sequence[int], params: Any) -> Any:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input

        output: Any = None
        ask = self.llm.generate if isinstance(params, SamplingParams) else self.llm.encode
        try:
            # Cancelling this task aborts the request.
            async for final in ask(tokens_input(list(prompt_ids)), params, f"genprm-{next(self._request_ids)}"):
                output = final
        except Exception as error:
            raise EngineError(f"vLLM could not answer: {error!r}") from error
        if output is None:
            raise EngineError("vLLM returned no output")
        return output


@contextlib.contextmanager
def _cores_left(on_cpu: bool) -> Generator[None]:
    """Makes an engine that starts on a CPU in this context leave one core to this process and the sandbox.

    Its threads wait for each other after every operation: one that shares its core with a snippet slows down all.
    """
    name = "OMP_NUM_THREADS"
    if not on_cpu or name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, len(os.sched_getaffinity(0)) - 1))
    try:
        yield
    finally:
        del os.environ[name]


def _nothing(timeout: float | None = None) -> None:
    """Replaces the second shutdown."""


def _end_messaging(llm: Any) -> None:
    """Ends the ZeroMQ context whose sockets vLLM has closed.

    vLLM leaves that to the garbage collector, which warns at an arbitrary later point.
    """
    client: Any = getattr(llm, "engine_core", None)
    context = getattr(getattr(client, "resources", None), "ctx", None)
    # Ending it would wait forever for open sockets.
    if context is not None and all(socket.closed for socket in getattr(client.ctx, "_sockets", ())):
        context.term()
