"""Forward passes of PRMs on a PyTorch model, for a batch of solutions.

Sequences are padded on the right and no mask is passed: in a causal model no token sees the padding after it. Only the
requested positions go through the head, in float32 whatever the type of the weights. A GPU computes a batch at once; a
CPU computes it in parts whose intermediate results fit its caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from genprm.prms.discriminative.formats import Head, Layout

P = TypeVar("P")
R = TypeVar("R")

_CPU_TOKENS = 512
"""Tokens, including padding, in one forward pass on a CPU: with more, a layer's results do not fit its caches. A pass
of 4,096 takes 1.6 times as long per token."""
_VOCABULARY_BLOCK = 16384
_TOKEN_BLOCK = 512
"""Logits are computed for blocks of this many tokens and words: 32 MiB, whatever the length and vocabulary."""


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """Qwen2 with a classification head of two layers on every token, as Qwen2.5-Math-PRM is stored.

    Those models' own code does not run on current transformers releases; their weights load into this class.
    """

    _keys_to_ignore_on_load_unexpected = [r"lm_head\."]  # noqa: RUF012 - transformers' name and type

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
        self.post_init()

    def forward(self, input_ids: Tensor, use_cache: bool | None = None) -> TokenClassifierOutput:
        """The two classes' logits of every token: [sequences, tokens, 2]."""
        hidden = self.model(input_ids=input_ids, use_cache=use_cache).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))


class _ValueHead(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.summary = nn.Linear(size, 1)


class Qwen2ForPrmModel(Qwen2PreTrainedModel):
    """Qwen2 with a value head on every token, as Skywork-o1-Open-PRM is stored."""

    _keys_to_ignore_on_load_unexpected = [r"lm_head\."]  # noqa: RUF012 - transformers' name and type

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.v_head = _ValueHead(config.hidden_size)
        self.post_init()


def token_logprobs(model: Any, rows: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
    """Log-probabilities of the tokens of some sequences.

    Args:
        model: a causal language model whose logits are its output embeddings times the last hidden states: see
            `has_plain_head`.
        rows: for each sequence, its ids and the index of the first token to score, at least 1.

    Returns:
        For each row, log P(ids[j] | ids[:j]) for every j from that index on.
    """
    hidden = _hidden_states(model, [(ids, range(start - 1, len(ids) - 1)) for ids, start in rows])
    wanted = torch.tensor([token for ids, start in rows for token in ids[start:]], device=hidden.device)
    scores = _logprobs(model.get_output_embeddings(), hidden, wanted.long()).tolist()
    result: list[list[float]] = []
    for ids, start in rows:
        count = max(0, len(ids) - start)
        result.append(scores[:count])
        del scores[:count]
    return result


def step_log_odds(model: Any, head: Head, choices: tuple[int, int] | None, rows: Sequence[Layout]) -> list[list[float]]:
    """Log-odds of every step of some solutions, in one forward pass.

    Args:
        model: the model with this head.
        head: where the log-odds are read.
        choices: ids of the good and the bad token, with `Head.NEXT_TOKEN`.
        rows: the solutions.
    """
    hidden = _hidden_states(model, [(row.ids, row.positions) for row in rows])
    flat = _log_odds(model, head, choices, hidden.float()).tolist()
    result: list[list[float]] = []
    for row in rows:
        result.append(flat[: len(row.positions)])
        del flat[: len(row.positions)]
    return result


def has_plain_head(model: Any) -> bool:
    """Whether a model's logits are just its output embeddings times the last hidden states.

    Some architectures scale or cap them, which a comparison on a few tokens detects.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return False
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return bool(torch.allclose(logits.float(), head(hidden).float(), rtol=1e-3, atol=1e-3))


def _hidden_states(model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
    """Last hidden states, after the final norm, at some positions of some sequences.

    Args:
        model: its base model is used.
        rows: for each sequence, its ids and the positions.

    Returns:
        [positions of all rows, hidden]
    """
    parts = _parts(model, [len(ids) for ids, _ in rows])
    states = _side_by_side(lambda part: _part_states(model, [rows[index] for index in part]), parts)
    found = dict(zip(chain.from_iterable(parts), chain.from_iterable(states), strict=True))
    return torch.cat([found[index] for index in range(len(rows))])


def _part_states(model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, ...]:
    """`_hidden_states` of one forward pass, for each sequence."""
    width = max(len(ids) for ids, _ in rows)
    padded = [[*ids, *[0] * (width - len(ids))] for ids, _ in rows]
    where = [(row, position) for row, (_, positions) in enumerate(rows) for position in positions]
    ids = torch.tensor(padded, dtype=torch.long, device=model.device)
    index = torch.tensor(where, dtype=torch.long, device=model.device).reshape(-1, 2)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[index[:, 0], index[:, 1]].split([len(positions) for _, positions in rows])


def _parts(model: Any, lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the sequences to compute together, longest first."""
    if model.device.type != "cpu":
        return [list(range(len(lengths)))]
    parts: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True):
        # The first sequence of a part is its longest.
        if not parts or width * (len(parts[-1]) + 1) > _CPU_TOKENS:
            parts.append([])
            width = lengths[index]
        parts[-1].append(index)
    return parts


def _side_by_side(function: Callable[[P], R], parts: Sequence[P]) -> list[R]:
    """Applies a function to all parts; on a CPU, to as many at a time as PyTorch has threads.

    Threads that share an operation wait for each other after it, which costs most of the gain if an operation takes a
    millisecond or something else needs a core. With one part per thread they do not wait. A few long parts are better
    shared.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) < 2 * threads:
        return [function(part) for part in parts]

    def alone(part: P) -> R:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return function(part)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, parts))
    finally:
        # A thread's setting applies to itself and to all threads started later.
        torch.set_num_threads(threads)


def _logprobs(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of one token at each position.

    Never stores more than a block of logits: the normaliser is accumulated over blocks of the vocabulary.

    Args:
        head: the output embeddings, [vocabulary, hidden].
        hidden: [positions, hidden].
        targets: [positions].

    Returns:
        float32, [positions].
    """
    chosen = torch.full_like(hidden[:, 0], -torch.inf, dtype=torch.float32)
    normaliser = torch.full_like(chosen, -torch.inf)
    for first in range(0, head.weight.shape[0], _VOCABULARY_BLOCK):
        block = slice(first, first + _VOCABULARY_BLOCK)
        weight = head.weight[block].float()
        bias = None if (whole := _bias(head)) is None else whole[block]
        for start in range(0, len(hidden), _TOKEN_BLOCK):
            rows = slice(start, start + _TOKEN_BLOCK)
            logits = nn.functional.linear(hidden[rows].float(), weight, bias)
            normaliser[rows] = torch.logaddexp(normaliser[rows], logits.logsumexp(-1))
            columns = targets[rows] - first
            inside = (columns >= 0) & (columns < len(weight))
            found = logits.gather(1, columns.clamp(0, len(weight) - 1)[:, None])[:, 0]
            chosen[rows] = torch.where(inside, found, chosen[rows])
    return chosen - normaliser


def _log_odds(model: Any, head: Head, choices: tuple[int, int] | None, hidden: Tensor) -> Tensor:
    """Reads the head at some positions: [positions, hidden] -> [positions]."""
    if head is Head.NEXT_TOKEN:
        assert choices is not None
        output = model.get_output_embeddings()
        rows = list(choices)
        bias = None if (whole := _bias(output)) is None else whole[rows]
        logits = nn.functional.linear(hidden, output.weight[rows].float(), bias)
        return logits[:, 0] - logits[:, 1]
    if head is Head.VALUE:
        return _in_float32(model.v_head.summary, hidden)[:, 0]
    logits = hidden
    for layer in model.score if isinstance(model.score, nn.Sequential) else [model.score]:
        logits = _in_float32(layer, logits)
    return logits[:, 1] - logits[:, 0]


def _in_float32(layer: nn.Module, values: Tensor) -> Tensor:
    if not isinstance(layer, nn.Linear):
        return layer(values)
    return nn.functional.linear(values, layer.weight.float(), _bias(layer))


def _bias(layer: Any) -> Tensor | None:
    return None if layer.bias is None else layer.bias.float()
