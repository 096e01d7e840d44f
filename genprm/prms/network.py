"""What PRMs compute on a PyTorch model beyond generating text: one forward pass for a batch of solutions.

Sequences are padded on the right and no mask is passed: in a causal model no token sees the padding behind it. Only the
positions that are asked for go through the head, in float32 whatever the type of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel

from genprm.prms.adapters import Head, Layout

_VOCABULARY_BLOCK = 16384
_TOKEN_BLOCK = 512
"""Logits are computed for so many tokens and words at a time: 32 MiB, whatever the length and the vocabulary are."""


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """Qwen2 with a classification head of two layers on every token, as Qwen2.5-Math-PRM is stored.

    The code that comes with those models does not run on current transformers releases; their weights load into this.
    """

    _keys_to_ignore_on_load_unexpected = [r"lm_head\."]  # noqa: RUF012 - transformers' name and type

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
        self.post_init()


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
        rows: for each sequence, its ids and the index of the first token wanted, at least 1.

    Returns:
        For each row, log P(ids[j] | ids[:j]) for every j from that index on.
    """
    hidden = _hidden_states(model, [ids for ids, _ in rows])
    where = [(row, position - 1) for row, (ids, start) in enumerate(rows) for position in range(start, len(ids))]
    index = torch.tensor(where, dtype=torch.long, device=hidden.device).reshape(-1, 2)
    wanted = torch.tensor([token for ids, start in rows for token in ids[start:]], device=hidden.device)
    scores = _logprobs(model.get_output_embeddings(), hidden[index[:, 0], index[:, 1]], wanted.long()).tolist()
    result: list[list[float]] = []
    for ids, start in rows:
        count = max(0, len(ids) - start)
        result.append(scores[:count])
        del scores[:count]
    return result


def step_log_odds(model: Any, head: Head, choices: tuple[int, int] | None, rows: Sequence[Layout]) -> list[list[float]]:
    """Log-odds of every step of some solutions, one forward pass for all.

    Args:
        model: what `head` is the head of.
        head: where the log-odds are read from.
        choices: ids of the good and the bad token, with `Head.NEXT_TOKEN`.
        rows: the solutions.
    """
    hidden = _hidden_states(model, [row.ids for row in rows])
    where = [(index, position) for index, row in enumerate(rows) for position in row.positions]
    index = torch.tensor(where, dtype=torch.long, device=hidden.device).reshape(-1, 2)
    flat = _log_odds(model, head, choices, hidden[index[:, 0], index[:, 1]].float()).tolist()
    result: list[list[float]] = []
    for row in rows:
        result.append(flat[: len(row.positions)])
        del flat[: len(row.positions)]
    return result


def has_plain_head(model: Any) -> bool:
    """Whether a model's logits are its output embeddings times the last hidden states, and nothing else.

    Some architectures scale or cap them; those are found by comparing the two on a few tokens.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return False
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return bool(torch.allclose(logits.float(), head(hidden).float(), rtol=1e-3, atol=1e-3))


def _hidden_states(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states, after the final norm: [rows, longest, hidden]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long, device=model.device)
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def _logprobs(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of one token at each position.

    Never holds more than a block of logits: the normaliser is accumulated over blocks of the vocabulary.

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
