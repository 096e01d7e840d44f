"""Spending test-time compute on a policy with a process reward model: best-of-n, beam search, DVTS."""
