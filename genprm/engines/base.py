"""The interface between a judge and its model: token ids in, token ids and log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from genprm.engines.tokenizer import Tokenizer

T = TypeVar("T")


class Finish(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """One of the stop strings was written."""
    EOS = "eos"
    """The model ended its turn. The end-of-sequence token is not among the ids returned."""
    LENGTH = "length"
    """`max_tokens` or the end of the context was reached."""
    REPEATED = "repeated"
    """The model repeated the same tokens: see `genprm.engines.stops.repeats`."""

    @property
    def complete(self) -> bool:
        """Whether the model ended by itself, so that its text is complete."""
        return self in (Finish.STOP, Finish.EOS)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to continue a prompt."""

    max_tokens: int
    temperature: float = 0.0
    """In [0, 2], the range of servers. 0 is greedy; then `top_p`, `top_k` and `seed` have no effect."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means no limit."""
    stop: tuple[str, ...] = ()
    """Generation ends as soon as the generated text contains one of these. The text is kept up to and including it."""
    seed: int | None = None
    watch: tuple[int, ...] = ()
    """At most 16 tokens whose log-probabilities are returned at each generated position: see `Completion.watched`.
    """

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens!r}")
        if not 0 <= self.temperature <= 2 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"temperature must be in [0, 2], top_p in (0, 1] and top_k at least 0: {self!r}")
        if any(not stop for stop in self.stop):
            raise ValueError("a stop string must not be empty")


@dataclass(frozen=True, slots=True)
class Completion:
    """An engine's continuation of a prompt."""

    text: str
    """Up to and including the stop string, if one was met."""
    token_ids: tuple[int, ...]
    """Decode to `text` exactly. Where a stop string ends inside a token, the engine re-tokenises that last piece only,
    so that prompt ids + these ids + more ids is always a valid continuation."""
    finish: Finish
    stop: str | None = None
    """The stop string that was met, when `finish` is `STOP`."""
    cached_tokens: int = 0
    """Prompt tokens from the engine's prefix cache, if it reports them."""
    watched: tuple[tuple[float, ...], ...] = ()
    """Row j: natural log-probabilities of the tokens in `Sampling.watch` as the next token after the prompt and
    `token_ids[:j]`, over the whole vocabulary, unaffected by temperature, top-p and top-k. There may be fewer rows than
    tokens: none from an engine that cannot watch, and none after the first token of a re-tokenised piece."""
    sampled_tokens: int = 0
    """Tokens the engine decoded, which is the real cost: at least `len(token_ids)` unless the last piece was
    re-tokenised."""


class Engine(Protocol):
    """A model that continues prompts and scores tokens. Safe for many concurrent calls in one event loop.

    Cancelling a call frees its resources. Every method raises `ContextOverflowError` when its input (with at least one
    token to generate) does not fit, and `EngineError` when the engine cannot answer; other calls are not affected.
    """

    kind: str
    """Its `--engine` name: `transformers`, `vllm` or `openai`; for a cluster, that of its workers."""
    tokenizer: Tokenizer
    model_name: str
    max_model_len: int
    """Tokens of prompt and completion together."""
    capacity: int
    """Sequences the engine decodes at once at full speed. More may be in flight; they wait their turn."""
    cache_tokens: int | None
    """Size of the KV cache in tokens, which spares recomputing a chain's prefix. None without a cache, or if its size
    is unknown."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        """Continues a prompt.

        Args:
            prompt_ids: token ids, including special tokens; nothing is added.
            sampling: how to continue. `max_tokens` is limited to the rest of the context.
            chain: a name for the conversation this call belongs to; calls of one chain go to the server that holds its
                prefix. No effect with one server.
        """
        ...

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        """Natural log-probability of each of a few next tokens (at most 16), over the whole vocabulary.

        Exact: neither temperature nor top-p/top-k touch it.
        """
        ...

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Natural log-probability of every given token but the first: entry j is log P(ids[j + 1] | ids[: j + 1])."""
        ...

    async def close(self) -> None:
        """Frees the model or connection. Calls in flight fail with `EngineError`. Idempotent."""
        ...


@runtime_checkable
class RunsModel(Protocol):
    """An engine that lets a caller use its PyTorch model directly."""

    async def run_model(self, function: Callable[[Any], T]) -> T:
        """Runs a function with the model (a `torch.nn.Module`), in inference mode, while nothing else uses it.

        What the function raises is raised here.
        """
        ...


@runtime_checkable
class PoolingEngine(Protocol):
    """An engine that can serve a model with a classification head."""

    async def pool(self, ids: Sequence[int], *, step_tag: int | None = None) -> list[list[float]]:
        """Outputs of the head for the tokens of a prompt, without an activation.

        Args:
            ids: the prompt.
            step_tag: the token that ends a step. An engine that can pool steps then returns only those positions; a
                server pools as configured, regardless of the request.

        Returns:
            A row of numbers per token, or per step.

        Raises:
            EngineError: the loaded model does not pool, or the engine cannot answer.
        """
        ...
