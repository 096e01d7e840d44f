"""Keys and values of a batch with changing rows.

transformers' `DynamicCache` copies every key and value at each token and cannot add a row; its `StaticCache` attends
over its full length. This cache reserves room at the end, so that a token is written in place, and lets a new sequence
replace a finished one. All rows end at the same column, as in transformers' left-padded `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

MIN_ROOM = 64
"""Minimum of reserved columns; a quarter of the width if that is more, so that growing costs little per token."""


class SlotLayer(DynamicLayer):
    """One layer: two buffers of [slots, heads, columns, head size], of which the first `width` columns are used."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.width = 0
        self.keys_buffer = self.values_buffer = torch.empty(0)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the next column of all rows; returns everything so far, without a copy."""
        end = self.width + key_states.shape[-2]
        self.keys_buffer[: self.rows, :, self.width : end] = key_states
        self.values_buffer[: self.rows, :, self.width : end] = value_states
        self.width = end
        return self.keys_buffer[: self.rows, :, :end], self.values_buffer[: self.rows, :, :end]

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.width


class SlotCache:
    """Keys and values of all layers, with attention mask and next position of each row."""

    def __init__(self) -> None:
        self.cache = Cache(layers=[])
        self._layers: list[SlotLayer] = []
        self.rows = 0
        self.width = 0
        self.mask = torch.empty(0, dtype=torch.long)
        """[slots, columns]: 1 where a row has a token."""
        self.positions = torch.empty(0, dtype=torch.long)
        """[slots]: tokens of each row so far, which is the position of its next one."""

    def has_room(self) -> bool:
        """Whether one more column fits."""
        return self.width < self.mask.shape[1]

    @property
    def slots(self) -> int:
        """Rows that fit."""
        return self.mask.shape[0]

    def retire(self, row: int) -> None:
        """Resets the position of a finished row: it is still computed, and must stay within the model's range."""
        self.positions[row] = 0

    def advance(self) -> tuple[Tensor, Tensor]:
        """Opens one more column.

        Returns:
            The mask [rows, width] and the positions [rows, 1] of the tokens to be computed.
        """
        self.mask[: self.rows, self.width] = 1
        positions = self.positions[: self.rows, None].clone()
        self.positions[: self.rows] += 1
        self.width += 1
        return self.mask[: self.rows, : self.width], positions

    def rebuild(self, rows: Sequence[int], slots: int, shift: int = 0) -> None:
        """Moves some rows to a new buffer, in the order given, with room for more columns.

        Args:
            rows: the rows that stay.
            slots: rows that the new buffer can hold.
            shift: columns to add on the left (negative: to drop there).
        """
        width = self.width + shift
        columns = width + max(MIN_ROOM, width // 4)
        source, target = max(0, -shift), max(0, shift)

        def moved(old: Tensor, new: Tensor) -> Tensor:
            # Columns are the dimension before the last of keys and values, and the last of the mask.
            dim = 2 if old.dim() == 4 else 1
            kept = old[list(rows)].narrow(dim, source, self.width - source)
            new[: len(rows)].narrow(dim, target, width - target).copy_(kept)
            return new

        for layer in self._layers:
            for name in ("keys_buffer", "values_buffer"):
                old: Tensor = getattr(layer, name)
                setattr(layer, name, moved(old, old.new_zeros(slots, old.shape[1], columns, old.shape[3])))
            layer.rows, layer.width = len(rows), width
        self.mask = moved(self.mask, self.mask.new_zeros(slots, columns))
        positions = self.positions.new_zeros(slots)
        positions[: len(rows)] = self.positions[list(rows)]
        self.positions, self.rows, self.width = positions, len(rows), width

    def place(self, slot: int, prefilled: DynamicCache, row: int, length: int) -> None:
        """Writes a prefilled sequence into a slot.

        Args:
            slot: at most `rows`: a finished row, or the next one.
            prefilled: transformers' cache for some left-padded prompts.
            row: the sequence's row in `prefilled`.
            length: its number of tokens, at most `width`.
        """
        self.rows = max(self.rows, slot + 1)
        columns = slice(self.width - length, self.width)
        for layer, (keys, values) in zip(self._layers, states_of(prefilled), strict=True):
            layer.keys_buffer[slot, :, columns] = keys[row, :, -length:]
            layer.values_buffer[slot, :, columns] = values[row, :, -length:]
            layer.rows = self.rows
        self.mask[slot] = 0
        self.mask[slot, self.width - length : self.width] = 1
        self.positions[slot] = length

    def states(self, row: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer of a row: [heads, width, head size], of which its own tokens are the last."""
        return [
            (layer.keys_buffer[row, :, : self.width], layer.values_buffer[row, :, : self.width])
            for layer in self._layers
        ]

    def allocate(self, prefilled: DynamicCache, slots: int, width: int) -> None:
        """Makes an empty cache of `width` columns, with the shapes of transformers' cache."""
        columns = width + max(MIN_ROOM, width // 4)
        layers: list[SlotLayer] = []
        for keys, values in states_of(prefilled):
            layer = SlotLayer()
            layer.keys_buffer = keys.new_zeros(slots, keys.shape[1], columns, keys.shape[3])
            layer.values_buffer = values.new_zeros(slots, values.shape[1], columns, values.shape[3])
            layer.width = width
            layer.is_initialized = True
            layers.append(layer)
        self._layers = layers
        self.cache = Cache(layers=list(layers))
        device = layers[0].keys_buffer.device
        self.mask = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)
        self.rows, self.width = 0, width


def states_of(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, [rows, heads, columns, head size]."""
    layers: Any = cache.layers
    return [(layer.keys, layer.values) for layer in layers]
