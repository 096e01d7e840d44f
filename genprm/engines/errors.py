"""Errors of engines."""

from __future__ import annotations


class EngineError(RuntimeError):
    """The engine could not answer: a server is down, a request is refused, or a model does not load."""


class ContextOverflowError(EngineError):
    """Prompt and requested tokens do not fit the model's context. A retry cannot help."""
