"""The result of running a snippet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a snippet ended.

    A snippet can forge `ok`, `exception`, `exit` and `memory` of its own; the supervisor alone gives the others.
    """

    OK = "ok"
    """Ran to its end."""
    EXCEPTION = "exception"
    """Ended by a Python exception."""
    EXIT = "exit"
    """Exited early: `sys.exit`, `os._exit`, or the end of its process before the snippet's end."""
    TIMEOUT = "timeout"
    """Reached the wall or the CPU limit and was killed."""
    MEMORY = "memory"
    """Exceeded the memory limit."""
    OUTPUT_LIMIT = "output_limit"
    """Wrote more than the hard output limit and was killed."""
    KILLED = "killed"
    """Died of a signal that the supervisor did not send, such as a crash."""
    INVALID_CODE = "invalid_code"
    """Is not Python, or is too long; nothing ran."""

    @property
    def keeps_state(self) -> bool:
        """Whether the session keeps the snippet's effects; otherwise it continues from the state before."""
        return self in (Status.OK, Status.EXCEPTION)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one snippet. A failing snippet is not an error of the sandbox."""

    status: Status
    stdout: str
    """Head and tail of its output, separated by a line with the number of bytes cut."""
    error: str | None
    """`Type: message` for `exception`; a description for other statuses except `ok`."""
    duration_s: float
    """Wall time by the supervisor's clock."""
    truncated: int
    """Bytes of output missing in `stdout`."""

    @property
    def ok(self) -> bool:
        """Whether the snippet ran to its end."""
        return self.status is Status.OK


class SandboxError(RuntimeError):
    """The sandbox itself broke, also after a retry. Says nothing about the snippet; never score it as a wrong step."""
