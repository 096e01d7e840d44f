"""Kills `genprm label` and `genprm synthesize` repeatedly, and compares with undisturbed runs.

`python benchmarks/kills.py --save` labels word problems with the built-in policy on the transformers engine, and has
the teacher `generator` review the solutions. Both commands run once undisturbed. Then each is ended by SIGKILL at
random moments (one in five before its first result, the others during the remaining work) and restarted each time.
At the end the Parquet files must be equal byte for byte, the rows must be equal, and every rollout must have been
written once: rollouts in flight at a kill are lost, finished ones are never sampled again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.rpe.dataset import PARQUET
from genprm.rpe.journal import FILE

ROOT = Path(__file__).parent.parent
POLL_S = 0.05
"""Seconds between two counts of the results: long enough to leave the CPU to the command."""
Line = tuple[str, ...]


def lines_of(file: Path, *names: str) -> list[Line]:
    """Returns these fields of every complete line of a file."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [tuple(str(row[name]) for name in names) for row in rows]


@dataclass
class Paid:
    """The rollouts that a run of `label` has written, over all its processes."""

    folder: Path
    rollouts: set[Line] = field(default_factory=set)
    twice: int = 0
    """Rollouts with two lines, or with a new line after the first was dropped with its finished problem."""
    lost: set[Line] = field(default_factory=set)
    """Rollouts of unfinished problems that a later process did not find again."""
    _before: set[Line] = field(default_factory=set)
    _done: set[str] = field(default_factory=set)

    def count(self) -> int:
        """Counts the rollouts so far. Call it often: a lost rollout may soon be sampled again."""
        there = set(self._lines())
        self.lost |= {line for line in self._before - there if line[0] not in self._done}
        return len(self.rollouts | there)

    def look(self) -> None:
        """Updates the counts after a process has ended."""
        self.count()
        found = self._lines()
        there = set(found)
        self.twice += len(found) - len(there) + len((there - self._before) & self.rollouts)
        self.rollouts |= there
        self._before = there
        self._done = {key for (key,) in rows_of(self.folder)}

    def _lines(self) -> list[Line]:
        return lines_of(self.folder / FILE, "problem", "name")


def rows_of(folder: Path) -> list[Line]:
    return lines_of(folder / "rows.jsonl", "key")


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "genprm.cli.main", *arguments, "--out", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def undisturbed(arguments: list[str], folder: Path, results: Callable[[], int]) -> tuple[float, float]:
    """Runs a command to its end. Returns the seconds to the first result and in total."""
    began, first = time.perf_counter(), 0.0
    process = start(arguments, folder)
    while process.poll() is None:
        if results() and not first:
            first = time.perf_counter() - began
        time.sleep(POLL_S)
    if process.returncode != 0:
        raise SystemExit(f"`genprm {' '.join(arguments)}` ended with code {process.returncode}")
    return first, time.perf_counter() - began


def killed(
    arguments: list[str],
    folder: Path,
    results: Callable[[], int],
    look: Callable[[], None],
    *,
    total: int,
    warm_up_s: float,
    kills: int,
    chance: random.Random,
) -> list[int]:
    """Starts a command and kills it `kills` times, then lets it end.

    Args:
        arguments: the command line.
        folder: the run folder.
        results: counts the results so far, over all processes.
        look: called after each process has ended.
        total: number of results of an undisturbed run.
        warm_up_s: seconds to the first result.
        kills: number of kills.
        chance: the random generator for the moments.

    Returns:
        The number of results at each kill.
    """
    there: list[int] = []
    for number in range(kills):
        before, began = results(), time.perf_counter()
        until = began + chance.random() * warm_up_s if chance.random() < 0.2 else float("inf")
        # A part of the remaining work, so that some is left for the last kill.
        goal = before + chance.randint(1, max(1, round(1.6 * (total - before) / (kills - number + 1))))
        process = start(arguments, folder)
        while process.poll() is None and time.perf_counter() < until and results() < goal:
            time.sleep(POLL_S)
        time.sleep(chance.random() * POLL_S)
        process.kill()
        if process.wait() == 0:
            raise SystemExit(f"the command finished after {len(there)} kills: use more problems")
        look()
        there.append(results())
    undisturbed(arguments, folder, results)
    look()
    return there


def compare(one: Path, other: Path) -> dict[str, bool]:
    """Compares the results of two runs."""
    return {
        "same_parquet": (one / "dataset" / PARQUET).read_bytes() == (other / "dataset" / PARQUET).read_bytes(),
        "same_rows": sorted((one / "rows.jsonl").read_bytes().splitlines())
        == sorted((other / "rows.jsonl").read_bytes().splitlines()),
        "each_row_once": len(set(rows_of(other))) == len(rows_of(other)),
    }


def label(home: Path, options: argparse.Namespace, chance: random.Random) -> dict[str, Any]:
    arguments = ["label", "--generate", str(options.problems), "--generate-seed", str(options.seed)]
    arguments += ["--temperature", "1", "--first", "16", "--most", "32", "--max-tokens", "200"]
    arguments += ["--engine", "transformers", "--concurrency", "4"]
    whole, paid = home / "labels", Paid(home / "labels-killed")
    first, seconds = undisturbed(arguments, whole, lambda: len(lines_of(whole / FILE, "name")))
    wanted = set(lines_of(whole / FILE, "problem", "name"))

    there = killed(
        arguments,
        paid.folder,
        paid.count,
        paid.look,
        total=len(wanted),
        warm_up_s=first,
        kills=options.kills,
        chance=chance,
    )
    return {
        "seconds": round(seconds, 1),
        "rows": len(rows_of(whole)),
        "rollouts": len(wanted),
        "killed_at": there,
        "rollouts_killed": len(paid.rollouts),
        "paid_twice": paid.twice,
        "lost": len(paid.lost),
        "same_rollouts": paid.rollouts == wanted,
        **compare(whole, paid.folder),
    }


def synthesize(home: Path, options: argparse.Namespace, chance: random.Random) -> dict[str, Any]:
    arguments = ["synthesize", str(home / "labels"), "--sandbox", options.sandbox, "--concurrency", "4"]
    whole, other = home / "train", home / "train-killed"
    first, seconds = undisturbed(arguments, whole, lambda: len(rows_of(whole)))
    there = killed(
        arguments,
        other,
        lambda: len(rows_of(other)),
        lambda: None,
        total=len(rows_of(whole)),
        warm_up_s=first,
        kills=options.kills,
        chance=chance,
    )
    return {
        "seconds": round(seconds, 1),
        "rows": len(rows_of(whole)),
        "kept": json.loads((whole / "metrics.json").read_text(encoding="utf-8"))["kept"],
        "killed_at": there,
        **compare(whole, other),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--kills", type=int, default=10, help="kills per command")
    parser.add_argument("--sandbox", default="bubblewrap", choices=["auto", "docker", "bubblewrap"])
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems and the moments")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/kills.json")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for command in (label, synthesize):
            found = figures[command.__name__] = command(Path(name), options, chance)
            print(f"genprm {command.__name__}")
            for key, figure in found.items():
                print(f"  {key.replace('_', ' '):16} {figure}")
    line = json.dumps(figures)
    if options.save:
        path = Path(__file__).parent / "results" / "kills.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(line + "\n", encoding="utf-8")
    print(line)
    broken = [found for found in figures.values() if any(figure is False for figure in found.values())]
    if broken or figures["label"]["paid_twice"] or figures["label"]["lost"]:
        raise SystemExit("a killed run has a different result")


if __name__ == "__main__":
    main()
