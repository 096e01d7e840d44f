"""Implicit PRMs: step rewards from the log-ratio of two language models."""
