"""Memory over a long input, and a run that is killed repeatedly.

A fake engine answers immediately, so that only the driver, the protocol and the run's folder are measured: rows are
read, judged by GenPRM's protocol, and written. The first run is undisturbed and its memory is recorded; the second one
is killed by SIGKILL at random moments and restarted, and must end with the same rows.

usage: python benchmarks/rows.py [--rows 100000] [--kills 10] [--save]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.config import Keep, Mode
from genprm.data.inputs import read_rows
from genprm.engines import BUILT_IN, Completion, Finish, Sampling
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.genprm.judge import GenPRM
from genprm.runs.folder import open_run
from genprm.runs.verify import default_concurrency, verify

RESULTS = Path(__file__).parent / "results"


class ShortCircuit:
    """An engine that answers without a model: the same words every time, and scores that depend on the prompt."""

    model_name = "short-circuit"
    max_model_len = 1 << 20
    capacity = 32
    cache_tokens = None

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_pretrained(str(BUILT_IN["nano"]))

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        await asyncio.sleep(0)
        text = f"Yes{sampling.stop[0]}" if sampling.stop else "Yes"
        ids = tuple(self.tokenizer.encode(text))
        return Completion(text, ids, Finish.STOP, stop=sampling.stop[0] if sampling.stop else None)

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        await asyncio.sleep(0)
        first = hashlib.blake2b(repr(prompt_ids).encode()).digest()[0]
        return [-0.1 - first / 256, -0.6][: len(choices)]

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to free."""


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def run(source: Path, folder: Path, every: int) -> list[tuple[int, float]]:
    """Judges what is not judged yet; rows done and memory in MiB, on the way."""
    prm = GenPRM(ShortCircuit(), mode=Mode.DIRECT)
    noted: list[tuple[int, float]] = []
    with open_run(folder, command="verify", config={"rows": str(source)}) as writing:

        def note(progress: object) -> None:
            if len(writing.done) % every == 0:
                noted.append((len(writing.done), round(resident_mb(), 1)))

        await verify(
            read_rows([str(source)]),
            prm,
            writing,
            concurrency=default_concurrency(prm.capacity, 1),
            keep=Keep.SCORES,
            on_progress=note,
        )
    return noted


def rows_of(folder: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["key"] in found:
            raise SystemExit(f"the row {row['key']} is there twice")
        found[row["key"]] = (row["id"], *row["scores"])
    return found


def killed(source: Path, folder: Path, kills: int, seconds: float, chance: random.Random) -> list[int]:
    """Starts the run and kills it, so many times, then lets it end; rows that were there at each kill."""
    command = [sys.executable, __file__, "--child", str(source), str(folder)]
    there: list[int] = []
    for _ in range(kills):
        child = subprocess.Popen(command)
        # Somewhere in what is left, once it has started.
        time.sleep(2.0 + chance.random() * 1.6 * seconds / (kills + 1))
        child.kill()
        child.wait()
        path = folder / "rows.jsonl"
        there.append(path.read_bytes().count(b"\n") if path.exists() else 0)
    subprocess.run(command, check=True)
    return there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/rows.json")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asyncio.run(run(Path(options.child[0]), Path(options.child[1]), 1 << 60))
        return
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "rows.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for number in range(options.rows):
                row = {"id": str(number), "problem": f"What is {number} + {number}?", "steps": [f"{2 * number}"]}
                file.write(json.dumps(row) + "\n")
        started = time.perf_counter()
        noted = asyncio.run(run(source, Path(name) / "whole", max(1, options.rows // 10)))
        seconds = time.perf_counter() - started
        print(f"{'rows':>10} {'memory, MiB':>12}")
        for done, megabytes in noted:
            print(f"{done:>10,} {megabytes:>12}")
        print(f"{options.rows / seconds:,.0f} rows a second")
        there = killed(source, Path(name) / "killed", options.kills, seconds, random.Random(options.seed))
        same = rows_of(Path(name) / "whole") == rows_of(Path(name) / "killed")
        print(f"killed at {', '.join(f'{count:,}' for count in there)} rows; then the same rows: {same}")
    figures = {
        "rows": options.rows,
        "memory_mb": {str(done): megabytes for done, megabytes in noted},
        "rows_per_s": round(options.rows / seconds, 1),
        "killed_at": there,
        "same_rows": same,
    }
    line = json.dumps(figures)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "rows.json").write_text(line + "\n", encoding="utf-8")
    print(line)
    if not same:
        raise SystemExit("the killed run ended with other rows")


if __name__ == "__main__":
    main()
