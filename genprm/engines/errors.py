"""What goes wrong in an engine."""

from __future__ import annotations


class EngineError(RuntimeError):
    """The engine could not answer: a server that is gone, a request it refuses, a model that does not load."""


class ContextOverflowError(EngineError):
    """The prompt and what was asked for do not fit the model's context. Asking again cannot help."""
