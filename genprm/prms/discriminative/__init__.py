"""Discriminative PRMs: a score at the end of each step, read from one forward pass."""
