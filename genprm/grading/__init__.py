"""Grades answers against references, in killable processes."""
