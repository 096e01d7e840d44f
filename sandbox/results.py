"""The result of running a snippet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a snippet ended, as its supervisor saw it; never as the snippet says."""

    OK = "ok"
    """Ran to its end."""
    EXCEPTION = "exception"
    """Ended by a Python exception."""
    EXIT = "exit"
    """Left early: `sys.exit`, `os._exit`, or the end of its process without a trace of the snippet's last line."""
    TIMEOUT = "timeout"
    """Reached the wall or the CPU limit and was killed."""
    MEMORY = "memory"
    """Asked for more memory than allowed."""
    OUTPUT_LIMIT = "output_limit"
    """Wrote more than the hard output limit and was killed."""
    KILLED = "killed"
    """Died of a signal that the supervisor did not send, a crash for example."""
    INVALID_CODE = "invalid_code"
    """Is not Python, or is longer than the sandbox takes; nothing ran."""

    @property
    def keeps_state(self) -> bool:
        """Whether the session keeps what the snippet did; after any other ending it goes on from the state before."""
        return self in (Status.OK, Status.EXCEPTION)


@dataclass(frozen=True, slots=True)
class Result:
    """What one snippet did. A value: a snippet that fails is not an error of the sandbox."""

    status: Status
    stdout: str
    """Head and tail of what it wrote, with a line between them that says how much was cut."""
    error: str | None
    """`Type: message` for `exception`; what ended it, in words, for the other statuses but `ok`."""
    duration_s: float
    """Wall time by the supervisor's clock."""
    truncated: int
    """Bytes of output that were cut out of `stdout`."""

    @property
    def ok(self) -> bool:
        """Whether the snippet ran to its end."""
        return self.status is Status.OK


class SandboxError(RuntimeError):
    """The sandbox itself broke, also after a retry. Says nothing about the snippet; never score it as a wrong step."""
