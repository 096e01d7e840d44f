"""Code only where it pays: F1 against tokens of `--with-code auto`, beside code on every step and on none.

`python benchmarks/auto_code.py ROWS.jsonl --save` judges labelled solutions (`problem`, `steps`, and `label`: the
0-based first wrong step or -1) with one chain each, in every mode on the same engine. `recipes/nano/heldout.py` writes
such rows for the built-in model. F1 is ProcessBench's, with 95 % bootstrap intervals over the solutions; tokens are
those generated for a solution.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
WAYS = (("none", "analyze", 1.0), ("auto 0.8", "auto", 0.8), ("auto 0.9", "auto", 0.9), ("auto 0.99", "auto", 0.99),
        ("every step", "execute", 1.0))  # fmt: skip
"""Name, mode, and certainty from which a step that computes nothing goes without code."""


async def measure(options: argparse.Namespace, rows: list[Any]) -> dict[str, Any]:
    """A row of figures for each way."""
    labels = [row["label"] for row in rows]
    engine = await load_engine(options.engine, str(options.model or BUILT_IN["nano"]))
    figures: dict[str, Any] = {"rows": len(rows), "engine": options.engine}
    try:
        async with open_sandbox(options.sandbox) as box:
            for name, mode, certainty in WAYS:
                prm = await genprm.load_prm(
                    options.model or "nano", engine=engine, sandbox=box, mode=mode, certainty=certainty
                )
                slots = asyncio.Semaphore(engine.capacity)

                async def judge(row: Any, prm: Any = prm, slots: asyncio.Semaphore = slots) -> Any:
                    async with slots:
                        return await prm.judge(row["problem"], row["steps"])

                started = time.perf_counter()
                judged = await asyncio.gather(*(judge(row) for row in rows))
                seconds = time.perf_counter() - started
                await prm.close()
                found = [one.first_error for one in judged]
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
                    "tokens": round(sum(one.tokens.generated for one in judged) / len(rows), 1),
                    "with_code": round(sum(bool(chain.code) for chain in chains) / len(chains), 3),
                    "seconds": round(seconds, 1),
                }
                print(name, figures[name], flush=True)
    finally:
        await engine.close()
    return figures


def main() -> None:
    """Measures, prints, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", help="JSONL of labelled solutions")
    parser.add_argument("--model", help="a GenPRM; the built-in one by default")
    parser.add_argument("--engine", default="transformers", choices=["vllm", "transformers"])
    parser.add_argument("--sandbox", default="auto", choices=["auto", "docker", "bubblewrap"])
    parser.add_argument("--limit", type=int, help="solutions; all by default")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/auto_code.json")
    options = parser.parse_args()
    rows = [json.loads(line) for line in Path(options.rows).read_text(encoding="utf-8").splitlines()]
    figures = asyncio.run(measure(options, rows[: options.limit]))
    line = json.dumps(figures)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "auto_code.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
