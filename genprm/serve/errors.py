"""Errors that clients receive."""

from __future__ import annotations

from genprm.engines.errors import ContextOverflowError, EngineError
from genprm.prms.base import PRMError
from genprm.sandbox import SandboxError


class Refusal(Exception):
    """A request that gets an error instead of a judgement.

    Args:
        status: HTTP status.
        kind: machine-readable type.
        message: a sentence for people, with the limit or the value.
        retry_after_s: seconds after which to retry.
    """

    def __init__(self, status: int, kind: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """The response body."""
        return {"error": {"type": self.kind, "message": self.message}}


class Unfit(Refusal):
    """A solution that cannot be judged as it is: unfinished, blank, or beyond a limit.

    Policies write such solutions, so in a batch it concerns only that solution, and its reward is 0.
    """


def refusal_of(error: Exception) -> Refusal | None:
    """The client's error for a failed judgement; None for a bug."""
    match error:
        case Refusal():
            return error
        case ContextOverflowError():
            return Refusal(422, "too_long", str(error))
        case PRMError():
            return Refusal(422, "invalid", str(error))
        case EngineError():
            return Refusal(503, "engine", str(error), 5)
        case SandboxError():
            return Refusal(503, "sandbox", str(error), 5)
        case _:
            return None
