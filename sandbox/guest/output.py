"""Keeps the head and the tail of what a snippet writes."""

from __future__ import annotations

import os

_CHUNK = 1 << 16


class Output:
    """The head and the tail of a stream, in bounded memory."""

    def __init__(self, kept: int) -> None:
        self._half = kept // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Adds output."""
        self.total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half + _CHUNK:
            del self._tail[: -self._half]

    def clear(self) -> None:
        """Drops everything."""
        self._head.clear()
        self._tail.clear()
        self.total = 0

    def text(self) -> tuple[str, int]:
        """The kept output, and the number of bytes cut."""
        tail = self._tail[-self._half :]
        cut = self.total - len(self._head) - len(tail)
        if not cut:
            return (self._head + tail).decode("utf-8", "replace"), 0
        head = self._head.decode("utf-8", "replace")
        return f"{head}\n... {cut} bytes cut ...\n{tail.decode('utf-8', 'replace')}", cut


def drain(descriptor: int, output: Output | None, limit: int = 1 << 20) -> bool:
    """Reads a non-blocking pipe's current content, about `limit` bytes at most. False when it is closed."""
    while limit > 0:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        limit -= len(data)
        if output is not None:
            output.add(data)
    return True
