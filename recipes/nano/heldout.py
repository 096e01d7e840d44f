"""Writes the held-out solutions that the built-in model is measured on: `python recipes/nano/heldout.py --data FILE`.

500 solutions of the GSM8K train file that no training run sees, marks stripped; in half of them the value of one marked
equation is wrong. Nothing is filtered: lines of algebra stay, and may hold the wrong equation.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from data import read_gsm8k, split_rows
from equations import MARK, NUMBER, Equation, clean_number, wrong_value


def corrupt_line(line: str, rng: random.Random) -> str | None:
    """The line without its marks and with a wrong value after one of them; None when it has none to change."""
    marks = list(MARK.finditer(line))
    rng.shuffle(marks)
    for mark in marks:
        shown = NUMBER.match(line, mark.end())
        if shown is None or not NUMBER.fullmatch(mark.group(2).strip()):
            continue
        number = shown.group().rstrip(",.")
        wrong = wrong_value(Equation(mark.group(1), clean_number(number), (0, 0)), rng)
        if wrong is not None:
            text = line[: mark.end()] + wrong + line[mark.end() + len(number) :]
            return MARK.sub("", text)
    return None


def held_out(rows: list[tuple[str, list[str]]], seed: int) -> list[dict[str, object]]:
    """The rows of the measurement, every other one wrong in one step."""
    rng = random.Random(seed)
    made: list[dict[str, object]] = []
    for index, (problem, lines) in enumerate(rows):
        steps = [MARK.sub("", line) for line in lines]
        label = -1
        if index % 2:
            for step in rng.sample(range(len(lines)), len(lines)):
                wrong = corrupt_line(lines[step], rng)
                if wrong is not None:
                    steps[step], label = wrong, step
                    break
        made.append({"id": f"held-out-{index}", "problem": problem, "steps": steps, "label": label})
    return made


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="GSM8K train file")
    parser.add_argument("--out", type=Path, default=Path("runs/held-out.jsonl"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    _, rows = split_rows(read_gsm8k(options.data))
    made = held_out(rows, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    print(f"{len(made)} solutions, {sum(row['label'] != -1 for row in made)} with a wrong step: {options.out}")


if __name__ == "__main__":
    main()
