"""ThinkPRM: one long critique of the whole solution."""
