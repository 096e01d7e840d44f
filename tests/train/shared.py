"""Rows to train on, and what a run logs."""

import json
from pathlib import Path
from typing import Any

from genprm.train.callbacks import LOG, read_log


def solution(index: int, *, steps: int, problem: int) -> dict[str, Any]:
    """ProcessBench's form. Every other solution has a wrong step, with a false equation in it, and a wrong answer."""
    wrong = index % steps if index % 2 else -1
    made = [f"{k + 1} + {index} = {k + 1 + index + 5 * (k == wrong)}" for k in range(steps)]
    return {"problem": f"Add {problem}.", "steps": made, "label": wrong, "final_answer_correct": wrong < 0}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def losses(out: Path) -> list[float]:
    """The training losses that a run has logged."""
    return [line["loss"] for line in read_log(out / LOG) if "loss" in line]
