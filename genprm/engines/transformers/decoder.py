"""Continuous batching on one PyTorch model: sequences join and leave between two tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from genprm.engines.base import Completion, Sampling
from genprm.engines.stops import completion, repeats, stop_window
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.transformers.kv_cache import MIN_ROOM, SlotCache, states_of
from genprm.engines.transformers.prefixes import Prefix, Prefixes
from genprm.engines.transformers.sampler import next_tokens

LOGITS_BYTES = 512 * 1024**2
"""A prompt is scored in chunks whose float32 logits take at most this."""


@dataclass(eq=False, slots=True)
class Generation:
    """One prompt being continued."""

    prompt: Sequence[int]
    sampling: Sampling
    rng: random.Random
    future: Future[Completion]
    prefix: Prefix | None = None
    """A sequence that the prompt begins with in part, whose keys and values are kept."""
    shared: int = 0
    """Tokens of the prompt that `prefix` has."""
    ids: list[int] = field(default_factory=list[int])
    watched: list[tuple[float, ...]] = field(default_factory=list[tuple[float, ...]])
    """One row per id in `ids`, if the sampling watches tokens."""

    @property
    def missing(self) -> int:
        """Tokens of the prompt that must be computed."""
        return len(self.prompt) - self.shared

    @property
    def cached(self) -> int:
        """Tokens whose keys and values are computed: all but the last."""
        return len(self.prompt) + len(self.ids) - 1


def deliver(future: Future[Any], outcome: object) -> None:
    """Sets the outcome of a future whose owner may cancel it at any moment."""
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass  # cancelled


class Decoder:
    """A batch of sequences on one model. One thread owns it.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: finds stop strings.
        eos_ids: tokens that end a sequence.
        slots: sequences decoded at once.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, eos_ids: frozenset[int], slots: int) -> None:
        self._model: Any = model
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._slots = slots
        self._cache = SlotCache()
        self._prefixes = Prefixes()
        self._rows: list[Generation | None] = []

    @property
    def free(self) -> int:
        """Sequences that can be admitted."""
        return self._slots - sum(row is not None for row in self._rows)

    @property
    def generations(self) -> list[Generation]:
        """The generations being decoded."""
        return [row for row in self._rows if row is not None]

    def clear(self) -> list[Generation]:
        """Drops all sequences, and what is kept of earlier ones; returns the former."""
        self._prefixes.clear()
        return self._empty()

    def look_up(self, generation: Generation) -> int:
        """Finds what is kept of a prompt; returns how many tokens of it must be computed."""
        generation.prefix, generation.shared = self._prefixes.find(generation.prompt) or (None, 0)
        return generation.missing

    def admit(self, new: Sequence[Generation]) -> None:
        """Computes prompts and their first tokens; `step` continues the unfinished ones."""
        for batch in _alike(new):
            self._prefill(batch)

    def _prefill(self, new: Sequence[Generation]) -> None:
        # All rows compute as many tokens as the one that misses most, so that none has a gap before its new tokens.
        computed = max(generation.missing for generation in new)
        held = [max(0, len(generation.prompt) - computed) for generation in new]
        ids, mask = self._padded([generation.prompt for generation in new])
        prefilled = _filled(new, held)
        logits = self._forward(ids[:, -computed:], mask, _positions(mask)[:, -computed:], prefilled, keep=1)
        tokens = next_tokens(logits[:, -1], [g.sampling for g in new], [g.rng for g in new])
        _watch(logits[:, -1], new)
        going: list[int] = []
        for row, (generation, token) in enumerate(zip(new, tokens, strict=True)):
            generation.prefix = None
            if self._take(generation, token):
                self._keep(generation, [(keys[row], values[row]) for keys, values in states_of(prefilled)])
            else:
                going.append(row)
        self._make_room(len(going), max((len(new[row].prompt) for row in going), default=0), prefilled)
        for row in going:
            slot = self._rows.index(None) if None in self._rows else len(self._rows)
            self._rows[slot : slot + 1] = [new[row]]
            self._cache.place(slot, prefilled, row, len(new[row].prompt))

    def step(self) -> None:
        """Decodes one token of every sequence."""
        for row, generation in enumerate(self._rows):
            if generation is not None and generation.future.done():  # cancelled, or failed while being admitted
                self._retire(row)
        self._tidy()
        if not self._rows:
            return
        last = [generation.ids[-1] if generation is not None else 0 for generation in self._rows]
        mask, positions = self._cache.advance()
        logits = self._forward(self._tensor([[i] for i in last]), mask, positions, self._cache.cache, keep=1)[:, -1]
        live = [row for row, generation in enumerate(self._rows) if generation is not None]
        if len(live) < len(self._rows):
            logits = logits[live]
        generations = self.generations
        tokens = next_tokens(logits, [g.sampling for g in generations], [g.rng for g in generations])
        _watch(logits, generations)
        for row, generation, token in zip(live, generations, tokens, strict=True):
            if self._take(generation, token):
                self._keep(generation, self._cache.states(row))
                self._retire(row)

    def choice_logprobs(self, prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of a few next tokens of each prompt, over the whole vocabulary."""
        ids, mask = self._padded(prompts)
        logprobs = self._forward(ids, mask, _positions(mask), None, keep=1)[:, -1].float().log_softmax(-1)
        return [logprobs[row, list(wanted)].tolist() for row, wanted in enumerate(choices)]

    def prompt_logprobs(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of every token but the first of each prompt."""
        ids, mask = self._padded(prompts)
        positions, columns = _positions(mask), ids.shape[1] - 1
        chunk = max(1, LOGITS_BYTES // (4 * len(prompts) * self._model.config.get_text_config().vocab_size))
        cache = DynamicCache() if chunk < columns else None
        parts: list[Tensor] = []
        for start in range(0, columns, chunk):
            end = min(start + chunk, columns)
            logits = self._forward(ids[:, start:end], mask[:, :end], positions[:, start:end], cache, keep=0).float()
            target = ids[:, start + 1 : end + 1, None]
            parts.append(logits.gather(-1, target)[..., 0] - logits.logsumexp(-1))
        if not parts:
            return [[] for _ in prompts]
        logprobs = torch.cat(parts, dim=1)
        return [logprobs[row, columns - (len(prompt) - 1) :].tolist() for row, prompt in enumerate(prompts)]

    def _take(self, generation: Generation, token: int) -> bool:
        """Adds a token; delivers the completion if that ends it."""
        ids, sampling = generation.ids, generation.sampling
        ids.append(token)
        ended = token in self._eos_ids
        over = len(ids) >= sampling.max_tokens or repeats(ids)
        finished = ended or over
        if not finished and sampling.stop:
            recent = self._tokenizer.decode(ids[-stop_window(sampling.stop) :])
            finished = any(string in recent for string in sampling.stop)
        if finished:
            result = completion(
                self._tokenizer,
                ids,
                sampling.stop,
                ended=ended,
                cached_tokens=generation.shared,
                watched=generation.watched,
            )
            # The window may begin inside a character and show a stop string that the whole text does not have.
            finished = ended or result.stop is not None or over
            if finished:
                deliver(generation.future, result)
        return finished

    def _keep(self, generation: Generation, states: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Keeps the keys and values of a finished generation, which are the last columns of `states`."""
        length = generation.cached
        ids = [*generation.prompt, *generation.ids][:length]
        self._prefixes.keep(ids, [(keys[:, -length:], values[:, -length:]) for keys, values in states])

    def _empty(self) -> list[Generation]:
        dropped, self._rows, self._cache = self.generations, [], SlotCache()
        return dropped

    def _retire(self, row: int) -> None:
        self._rows[row] = None
        self._cache.retire(row)

    def _tidy(self) -> None:
        """Closes gaps once they cost more than moving the rest, and makes sure that one more column fits."""
        live = [row for row, generation in enumerate(self._rows) if generation is not None]
        if not live:
            self._empty()
            return
        padding = self._cache.width - max(generation.cached for generation in self.generations)
        sparse = len(live) < 0.75 * len(self._rows)
        wasteful = padding > max(MIN_ROOM, self._cache.width // 4)
        if sparse or wasteful or not self._cache.has_room():
            self._rebuild(live, len(live), -padding)

    def _make_room(self, rows: int, width: int, prefilled: DynamicCache) -> None:
        """Makes room in the cache for more sequences of at most `width` tokens."""
        live = [row for row, generation in enumerate(self._rows) if generation is not None]
        if not rows:
            return
        if not live:
            self._rows = []
            self._cache.allocate(prefilled, self._slots_for(rows), width)
        elif len(live) + rows > self._cache.slots or width > self._cache.width:
            self._rebuild(live, len(live) + rows, max(0, width - self._cache.width))

    def _rebuild(self, live: list[int], rows: int, shift: int) -> None:
        self._cache.rebuild(live, self._slots_for(rows), shift)
        self._rows = [self._rows[row] for row in live]

    def _slots_for(self, rows: int) -> int:
        return min(self._slots, 1 << (rows - 1).bit_length())

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Left-padded ids and their mask, both [prompts, longest]."""
        width = max(len(prompt) for prompt in prompts)
        ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return self._tensor(ids), self._tensor(mask)

    def _tensor(self, values: list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._model.device)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, keep: int) -> Tensor:
        """Logits of the last `keep` columns, or of all with 0: [rows, columns, vocabulary]."""
        return self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
        ).logits


def _watch(logits: Tensor, generations: Sequence[Generation]) -> None:
    """Notes the log-probabilities of watched tokens: `logits` has a row a generation, [rows, vocabulary]."""
    rows = [row for row, generation in enumerate(generations) if generation.sampling.watch]
    if not rows:
        return
    logprobs = logits[rows].float().log_softmax(-1)
    for row, values in zip(rows, logprobs, strict=True):
        generation = generations[row]
        generation.watched.append(tuple(values[list(generation.sampling.watch)].tolist()))


def _alike(new: Sequence[Generation]) -> list[list[Generation]]:
    """Groups of generations that miss about as many tokens of their prompts, so that few are computed in vain."""
    groups: list[list[Generation]] = []
    for generation in sorted(new, key=lambda one: one.missing):
        if not groups or generation.missing > 2 * groups[-1][0].missing + MIN_ROOM:
            groups.append([])
        groups[-1].append(generation)
    return groups


def _filled(new: Sequence[Generation], held: Sequence[int]) -> DynamicCache:
    """A `DynamicCache` with the first `held` tokens of each generation, padded on the left."""
    cache, width = DynamicCache(), max(held)
    example = next((generation.prefix for generation in new if generation.prefix is not None), None)
    if example is None or not width:
        return cache
    for layer, shapes in enumerate(example.states):
        whole = [one.new_zeros(len(new), one.shape[0], width, one.shape[2]) for one in shapes]
        for row, (generation, length) in enumerate(zip(new, held, strict=True)):
            if generation.prefix is not None and length:
                for padded, one in zip(whole, generation.prefix.states[layer], strict=True):
                    padded[row, :, width - length :] = one[:, :length]
        cache.update(whole[0], whole[1], layer)
    return cache


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp_(min=0)
