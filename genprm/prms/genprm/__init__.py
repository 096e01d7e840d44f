"""GenPRM: analysis, code and verdict for each step."""
