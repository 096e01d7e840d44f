"""What is judged: input rows, pools of solutions, problems, and how a solution is split into steps."""
