"""Which chains may be under way: as many as the engine's cache of keys and values holds to their end.

A chain comes back to its engine several times a step, each time with all that it has said so far. Were more under way
than the cache holds, each would find its beginning pushed out by the others and have it computed once more, and ever
more of them at once would only make that worse.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_PRIOR_CHARACTERS, _PRIOR_TOKENS = 4_000, 16_000
"""Before any chain has ended, one is taken to grow to four tokens for each character of its input: on the safe side."""
_MEMORY_CHARACTERS = 100_000
"""Characters of input from which on the estimate forgets earlier chains."""


@dataclass(slots=True)
class Place:
    """What one solution's chains hold."""

    tokens: int = 0
    """To be counted up at their ends: the length that they have grown to, together."""


class Admission:
    """Admits solutions, first come first served, while all chains under way are expected to fit the cache.

    How long a chain becomes is learnt from those that have ended, as tokens for each character of its input.

    Args:
        cache_tokens: tokens whose keys and values the engine keeps; None where nobody knows, and all are admitted.
        max_model_len: what a single chain cannot outgrow.
    """

    def __init__(self, cache_tokens: int | None, max_model_len: int) -> None:
        self.cache_tokens = cache_tokens
        self._max_model_len = max_model_len
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._characters, self._tokens = float(_PRIOR_CHARACTERS), float(_PRIOR_TOKENS)

    def estimate(self, characters: int, chains: int) -> int:
        """Tokens that so many chains over an input of so many characters are expected to come to."""
        each = characters * self._tokens / self._characters
        return max(1, round(min(each, self._max_model_len))) * chains

    @asynccontextmanager
    async def place(self, characters: int, chains: int) -> AsyncGenerator[Place]:
        """Holds room for the chains of one solution, and waits for it before.

        A solution that is larger than the whole cache is admitted alone.

        Args:
            characters: of the problem and the steps.
            chains: votes, which go side by side.
        """
        place = Place()
        if self.cache_tokens is None:
            yield place
            return
        wanted = self.estimate(characters, chains)
        if self._waiting or not self._fits(wanted):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((wanted, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._admit()  # those behind it may fit
                else:
                    self._release(wanted)  # admitted and cancelled at the same time
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
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if not self._fits(wanted):
                    return
                self._held += wanted
                turn.set_result(None)
            self._waiting.popleft()

    def _learn(self, characters: int, tokens: int) -> None:
        self._characters += characters
        self._tokens += tokens
        if self._characters > _MEMORY_CHARACTERS:
            self._tokens *= _MEMORY_CHARACTERS / self._characters
            self._characters = _MEMORY_CHARACTERS
