"""The channels to guests on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from .guest.processes import Process
from .lane import LaneBroken

COMPLAINT_BYTES = 2000
_END_S = 10.0


class StreamChannel:
    """A supervisor behind a pair of asyncio streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def ended(self) -> bool:
        """Whether its output has ended."""
        return self._reader.at_eof()

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


class ProcessChannel(StreamChannel):
    """The standard streams of a process that runs a guest, and its log."""

    def __init__(self, process: asyncio.subprocess.Process, patience_s: float = 0.0) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        super().__init__(process.stdout, process.stdin)
        self._process = process
        try:
            self._held = Process.hold(process.pid, 0)
        except ProcessLookupError:  # it ended at once; its log says why
            self._held = None
        self._ended = False
        self._patience_s = patience_s
        self._log = b""
        self._logger = asyncio.create_task(self._read_log(process.stderr))

    @property
    def pid(self) -> int:
        """The process that runs the guest."""
        return self._process.pid

    async def close(self) -> None:
        """End the guest's input, and the process."""
        self._writer.close()
        if not self._ended:
            self._ended = True
            if self._patience_s:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience_s):
                        await self._process.wait()
            # Not by asyncio's own `kill`: it may reap the process behind its watcher's back.
            if self._held is not None:
                self._held.signal(signal.SIGKILL)
                self._held.release()
        async with asyncio.timeout(_END_S):
            await self._process.wait()
            await self._logger

    def complaint(self) -> str:
        """The end of the guest's log."""
        return self._log.decode("utf-8", "replace").strip()

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(4096):
            self._log = (self._log + data)[-COMPLAINT_BYTES:]
