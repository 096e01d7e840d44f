"""Reads and checks a session's reports.

Untrusted code can write to their pipe, so anything may arrive, at any length and rate. A report is accepted only if it
is exactly one of those below; anything else ends the session that sent it, and only that.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from . import frames

LENGTH = struct.Struct(">I")
MAX_REPORT = 1 << 16
"""Longest report in bytes; the longest honest one has `frames.MAX_ERROR` characters of twelve bytes."""
OUTCOMES = frozenset({"ok", "exception", "exit", "memory", "invalid_code"})
_MAX_PID = 1 << 22


class BadReport(Exception):
    """A session broke its own channel."""

    def __init__(self) -> None:
        super().__init__("wrote to the sandbox's own channel")


class NotReady(Exception):
    """A session could not be set up. No snippet ran in it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is confined and ready for code."""

    pid: int
    """Its process id, in its own namespace."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A clone runs the snippet."""

    pid: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The snippet ended by itself."""

    status: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Crowded:
    """The session cannot create another process."""


Report = Ready | Runner | Outcome | Crowded


class Reports:
    """Reads a session's reports from its pipe, which does not block."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.closed = False
        """Whether no process can report any more."""
        self._buffer = bytearray()

    def forget(self) -> None:
        """Drops everything sent before a new snippet."""
        self._buffer.clear()
        for _ in range(64):
            try:
                if not os.read(self.descriptor, 1 << 16):
                    return
            except BlockingIOError:
                return
        raise BadReport

    def take(self, nonce: str) -> Report | None:
        """The next report of the snippet with this nonce (empty before the first); None if there is none yet.

        Raises:
            BadReport: the data is not a report.
        """
        payload = self._payload()
        if payload is None:
            return None
        try:
            return parse(frames.decode(payload), nonce)
        except frames.FrameError:
            raise BadReport from None

    def _payload(self) -> bytes | None:
        while True:
            if len(self._buffer) >= LENGTH.size:
                (size,) = LENGTH.unpack_from(self._buffer)
                if not 2 <= size <= MAX_REPORT:
                    raise BadReport
                end = LENGTH.size + size
                if len(self._buffer) >= end:
                    payload = bytes(self._buffer[LENGTH.size : end])
                    del self._buffer[:end]
                    return payload
            try:
                data = os.read(self.descriptor, MAX_REPORT)
            except BlockingIOError:
                return None
            if not data:
                self.closed = True
                return None
            self._buffer += data


def parse(message: dict[str, object], nonce: str) -> Report:
    """Makes a report from decoded JSON.

    Raises:
        BadReport: it is not a report.
        NotReady: a session says why it could not be set up.
    """
    if not nonce:
        if set(message) == {"ready"}:
            return Ready(_pid(message["ready"]))
        if set(message) == {"broken"}:
            raise NotReady(frames.clip(frames.encodable(str(message["broken"]))))
        raise BadReport
    if message.get("nonce") != nonce:
        raise BadReport
    if set(message) == {"nonce", "runner"}:
        return Runner(_pid(message["runner"]))
    if set(message) == {"nonce", "crowded"} and message["crowded"] is True:
        return Crowded()
    if set(message) != {"nonce", "outcome", "error"}:
        raise BadReport
    status, error = message["outcome"], message["error"]
    if type(status) is not str or status not in OUTCOMES:
        raise BadReport
    if status == "ok":
        if error is not None:
            raise BadReport
        return Outcome(status, None)
    if type(error) is not str or len(error) > frames.MAX_ERROR:
        raise BadReport
    return Outcome(status, frames.encodable(error))


def _pid(value: object) -> int:
    if type(value) is not int or not 0 < value <= _MAX_PID:
        raise BadReport
    return value
