"""Accuracy per token of a judge: code only where needed, and votes only until a verdict is settled.

`python benchmarks/spending.py code ROWS.jsonl --save` judges labelled solutions (`problem`, `steps`, and `label`: the
0-based first wrong step or -1) with one chain each: code on no step, where it pays (`--with-code auto`), and on every
step. `spending.py votes ROWS.jsonl` takes code on every step, with eight independent chains and with adaptive votes,
whose later chains continue a copy of the first chain. Eight chains of another seed show how far two such runs differ
by chance.

`recipes/nano/heldout.py` writes such rows for the built-in model. F1 is ProcessBench's, with 95 % bootstrap intervals
over the solutions; tokens are those generated for a solution.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import sys
import time
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

import genprm
from genprm.benchmarks.processbench import f1_score
from genprm.benchmarks.statistics import Hit, f1_interval
from genprm.engines import BUILT_IN, load_engine
from genprm.sandbox import open_sandbox

RESULTS = Path(__file__).parent / "results"
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "code": {
        "none": {"mode": "analyze"},
        "auto 0.8": {"mode": "auto", "certainty": 0.8},
        "auto 0.9": {"mode": "auto", "certainty": 0.9},
        "auto 0.99": {"mode": "auto", "certainty": 0.99},
        "every step": {"mode": "execute"},
    },
    "votes": {
        "8": {"votes": 8, "temperature": 0.6},
        "8, another seed": {"votes": 8, "seed": 1, "temperature": 0.6},
        "adaptive:8": {"votes": "adaptive:8", "temperature": 0.6},
        "adaptive:8, confidence 0.9": {"votes": "adaptive:8", "confidence": 0.9, "temperature": 0.6},
        "1": {"votes": 1, "temperature": 0.6},
    },
}
"""Options of a judge by the name of the row. The first row of `votes` is what the others are compared with."""


async def measure(options: argparse.Namespace, rows: list[Any]) -> dict[str, Any]:
    """A row of figures for each way."""
    labels = [row["label"] for row in rows]
    engine = await load_engine(options.engine, str(options.model or BUILT_IN["nano"]))
    figures: dict[str, Any] = {"rows": len(rows), "engine": options.engine}
    first: list[int | None] = []
    try:
        async with open_sandbox(options.sandbox) as box:
            for name, how in WAYS[options.part].items():
                prm = await genprm.load_prm(options.model or "nano", engine=engine, sandbox=box, **how)
                slots = asyncio.Semaphore(engine.capacity)

                async def judge(row: Any, prm: Any = prm, slots: asyncio.Semaphore = slots) -> Any:
                    async with slots:
                        return await prm.judge(row["problem"], row["steps"])

                started = time.perf_counter()
                judged = await asyncio.gather(*(judge(row) for row in rows))
                seconds = time.perf_counter() - started
                await prm.close()
                found = [one.first_error for one in judged]
                first = first or found
                score, interval = (
                    f1_score(found, labels),
                    f1_interval(
                        [[Hit(label != -1, guess == label) for guess, label in zip(found, labels, strict=True)]]
                    ),
                )
                if interval is None:
                    raise ValueError("the rows must hold solutions with a wrong step and solutions without one")
                chains = [chain for one in judged for step in one.steps for chain in step.chains]
                figures[name] = {
                    "f1": round(100 * (score.f1 or 0), 1),
                    "low": round(100 * interval.low, 1),
                    "high": round(100 * interval.high, 1),
                    "same_first_error": round(sum(map(operator.eq, found, first)) / len(rows), 3),
                    "tokens": round(sum(one.tokens.generated for one in judged) / len(rows), 1),
                    "with_code": round(sum(bool(chain.code) for chain in chains) / len(chains), 3),
                    "chains": round(len(chains) / sum(len(one.steps) for one in judged), 2),
                    "copied": round(sum(chain.copied for chain in chains) / len(chains), 3),
                    "seconds": round(seconds, 1),
                }
                print(name, figures[name], flush=True)
    finally:
        await engine.close()
    return figures


def main() -> None:
    """Measures, prints, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=list(WAYS))
    parser.add_argument("rows", help="JSONL of labelled solutions")
    parser.add_argument("--model", help="a GenPRM; the built-in one by default")
    parser.add_argument("--engine", default="transformers", choices=["vllm", "transformers"])
    parser.add_argument("--sandbox", default="auto", choices=["auto", "docker", "bubblewrap"])
    parser.add_argument("--limit", type=int, help="solutions; all by default")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/auto_code.json or votes.json")
    options = parser.parse_args()
    rows = [json.loads(line) for line in Path(options.rows).read_text(encoding="utf-8").splitlines()]
    figures = asyncio.run(measure(options, rows[: options.limit]))
    line = json.dumps(figures)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        name = "auto_code" if options.part == "code" else "votes"
        (RESULTS / f"{name}.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
