"""Decides which chains may run at once: as many as the engine's KV cache can hold until they end.

A chain calls its engine several times per step, each time with its whole conversation. If more chains ran than the
cache holds, they would evict each other's prefixes, which would be computed again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from genprm.spent import Part, spent_in

_PRIOR_CHARACTERS, _PRIOR_TOKENS = 4_000, 16_000
"""Before the first chain has ended, estimates are four tokens per character of input, which is generous."""
_MEMORY_CHARACTERS = 100_000
"""Characters of input after which the estimate forgets earlier chains."""


@dataclass(slots=True)
class Place:
    """The cache share of one solution's chains."""

    tokens: int = 0
    """Set by the holder when the chains end: their total length."""


class Admission:
    """Admits solutions in order of arrival while all chains in flight are expected to fit into the cache.

    The expected length is learnt from finished chains, as tokens per character of input.

    Args:
        cache_tokens: size of the engine's KV cache in tokens; None if unknown: then all are admitted.
        max_model_len: the most tokens of a single chain.
    """

    def __init__(self, cache_tokens: int | None, max_model_len: int) -> None:
        self.cache_tokens = cache_tokens
        self._max_model_len = max_model_len
        self._held = 0
        self._waiting: deque[tuple[int, int, asyncio.Future[int]]] = deque()
        self._characters, self._tokens = float(_PRIOR_CHARACTERS), float(_PRIOR_TOKENS)

    def estimate(self, characters: int, chains: int) -> int:
        """Expected final number of tokens of `chains` chains over an input of `characters` characters."""
        each = characters * self._tokens / self._characters
        return max(1, round(min(each, self._max_model_len))) * chains

    @asynccontextmanager
    async def place(self, characters: int, chains: int) -> AsyncGenerator[Place]:
        """Waits for room for the chains of one solution, and reserves it.

        A solution that is larger than the whole cache is admitted alone.

        Args:
            characters: length of the problem and steps.
            chains: concurrent chains: votes, and solutions of a search.
        """
        place = Place()
        if self.cache_tokens is None:
            yield place
            return
        wanted = self.estimate(characters, chains)
        if self._waiting or not self._fits(wanted):
            turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting.append((characters, chains, turn))
            try:
                with spent_in(Part.WAITING):
                    wanted = await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._admit()  # those behind it may fit
                else:
                    self._release(turn.result())  # admitted and cancelled at the same time
                raise
        else:
            self._held += wanted
        try:
            yield place
            self._learn(characters * chains, place.tokens)
        finally:
            self._release(wanted)

    def _fits(self, wanted: int) -> bool:
        assert self.cache_tokens is not None
        return not self._held or self._held + wanted <= self.cache_tokens

    def _release(self, wanted: int) -> None:
        self._held -= wanted
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            characters, chains, turn = self._waiting[0]
            if not turn.cancelled():
                # Estimated now, not on arrival: chains that ended since then have improved the estimate.
                wanted = self.estimate(characters, chains)
                if not self._fits(wanted):
                    return
                self._held += wanted
                turn.set_result(wanted)
            self._waiting.popleft()

    def _learn(self, characters: int, tokens: int) -> None:
        self._characters += characters
        self._tokens += tokens
        if self._characters > _MEMORY_CHARACTERS:
            self._tokens *= _MEMORY_CHARACTERS / self._characters
            self._characters = _MEMORY_CHARACTERS
