"""The channel shared by both backends."""

from __future__ import annotations

import asyncio

from .lane import LaneBroken

COMPLAINT_BYTES = 2000


class StreamChannel:
    """A supervisor behind a pair of asyncio streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        try:
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise LaneBroken("the guest has ended") from None

    async def write(self, data: bytes) -> None:
        """Send."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, RuntimeError):
            raise LaneBroken("the guest has ended") from None
