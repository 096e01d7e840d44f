"""Public benchmarks: their scores, computed from the rows of a run."""
