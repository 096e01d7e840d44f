"""Inputs: rows to judge, pools of solutions, problems, and splitting solutions into steps."""
