"""Keys and values of finished generations, for later prompts that begin alike.

A judge asks several times for each step, and every prompt of a chain begins with what was asked and written before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

KEPT_BYTES = 1 << 30
"""Keys and values of at most this size are kept: those used last."""

CUT_TOKENS = 16
"""A sequence that shares all but so many tokens with a later one is its beginning, and is not kept beside it."""

States = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [heads, tokens, head size]."""


@dataclass(frozen=True, eq=False, slots=True)
class Prefix:
    """Tokens, and their keys and values."""

    ids: np.ndarray
    states: States

    @property
    def size(self) -> int:
        """Bytes of keys and values."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.states)


class Prefixes:
    """The sequences used last.

    Args:
        limit: bytes of keys and values to keep.
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._size = self._last = 0
        self._kept: OrderedDict[int, Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, prompt: Sequence[int]) -> tuple[Prefix, int] | None:
        """The sequence that has most of the prompt's beginning, and how many tokens of it.

        At least one token of the prompt is left over: its logits are wanted.
        """
        ids, best = np.asarray(prompt[:-1]), (0, 0)
        for key, prefix in self._kept.items():
            best = max(best, (_shared(ids, prefix.ids), key))
        shared, key = best
        if not shared:
            return None
        self._kept.move_to_end(key)
        return self._kept[key], shared

    def keep(self, ids: Sequence[int], states: States) -> None:
        """Copies the keys and values of a sequence; drops those that it continues."""
        new = Prefix(np.asarray(ids), [(keys.clone(), values.clone()) for keys, values in states])
        # The end of an earlier one may have been cut at a stop string and tokenised anew.
        for key in [key for key, old in self._kept.items() if _shared(new.ids, old.ids) >= len(old.ids) - CUT_TOKENS]:
            self._drop(key)
        self._last += 1
        self._kept[self._last] = new
        self._size += new.size
        while self._size > self._limit:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Drops everything."""
        self._kept.clear()
        self._size = 0

    def _drop(self, key: int) -> None:
        self._size -= self._kept.pop(key).size


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    """Tokens at the beginning that two sequences share."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length
