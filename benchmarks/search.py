"""Searches: accuracy and tokens of each method, and the gain from searching many problems concurrently.

`python benchmarks/search.py methods --save` runs the built-in policy and PRM on fresh word problems, one recipe of
`recipes/built-in/` after the other, and the critic loop, each in a run's folder that a second start resumes. All
methods see the same problems. Accuracies have 95 % bootstrap intervals over the problems; tokens are those generated
for a problem, by policy and PRM. The last lines compare methods in pairs, problem by problem.

`python benchmarks/search.py speed --engine vllm --save` beam-searches the same problems one at a time, as the released
search does, and side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
RECIPES = ROOT / "recipes" / "built-in"
MOST = 500
"""Problems of a full measurement. One of fewer takes the first of them, so that it can be extended later."""
SEED = 7
"""Seed of the problems. The policy was trained on other seeds."""


def run(out: Path, *arguments: str) -> None:
    """One run of the command line; resumes a run in the folder."""
    command = [sys.executable, "-m", "genprm.cli.main", *arguments, "--out", str(out)]
    print("$ genprm", *arguments, "--out", out, flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def read(folder: Path, kind: str) -> tuple[Any, list[Any]]:
    """Metrics and rows of a run."""
    from genprm.benchmarks.refinement import RefineMetrics
    from genprm.benchmarks.searches import SearchMetrics
    from genprm.runs.folder import read_rows_of
    from genprm.search.rows import RefineRow, SearchRow

    metrics, rows = (RefineMetrics, RefineRow) if kind == "refine" else (SearchMetrics, SearchRow)
    return metrics.model_validate_json((folder / "metrics.json").read_bytes()), list(read_rows_of(folder, rows))


def methods(options: argparse.Namespace) -> dict[str, Any]:
    """Every method on the same problems."""
    from genprm.benchmarks.statistics import mean_difference

    out = Path(options.out)
    common = ["--limit", str(options.problems), "--sandbox", options.sandbox]
    made = ["--set", f"problems.generate={MOST}", "--set", f"problems.generate_seed={SEED}", "--policy", options.policy]
    sampling = ["--set", f"policy.engine={options.engine}", "--set", f"prm.engine={options.engine}"]
    for name in ("best-of-n", "best-of-n-no-code", "beam", "dvts"):
        run(out / name, "search", str(RECIPES / f"{name}.yaml"), *made, *common, *sampling)
    refine = ["--policy-temperature", "1", "--policy-top-p", "1", "--policy-top-k", "0"]
    refine += ["--policy-max-tokens", "256", "--policy-engine", options.engine, "--engine", options.engine]
    task = ["--generate", str(MOST), "--generate-seed", str(SEED), "--policy", options.policy]
    for style in ("analysis", "code"):
        run(out / f"refine-{style}", "refine", *task, "--turns", "3", "--critique", style, *refine, *common)

    figures: dict[str, Any] = {}
    outcomes: dict[str, list[float]] = {}

    def add(name: str, method: Any, tokens: float) -> None:
        figures[name] = {
            "accuracy": round(method.accuracy, 4),
            "low": round(method.low, 4),
            "high": round(method.high, 4),
            "tokens": round(tokens),
        }
        outcomes[name] = method.outcomes

    code, rows = read(out / "best-of-n", "search")
    table = {(one.method, one.n): one for one in code.best_of_n.methods}
    cost = {one.n: one for one in code.costs}
    both = sum(row.generated for row in rows) / len(rows)
    add("pass@1", table["pass@1", 8], cost[1].policy)
    add("majority@8", table["majority", 8], cost[8].policy)
    plain, plain_rows = read(out / "best-of-n-no-code", "search")
    picked = {(one.method, one.n): one for one in plain.best_of_n.methods}
    add("best-of-8/no-code", picked["best-of-n", 8], sum(row.generated for row in plain_rows) / len(plain_rows))
    add("best-of-8/code", table["best-of-n", 8], both)
    add("weighted@8", table["weighted", 8], both)
    for name in ("beam", "dvts"):
        found, found_rows = read(out / name, "search")
        best = next(one for one in found.best_of_n.methods if (one.method, one.n) == ("best-of-n", 8))
        add(name, best, sum(row.generated for row in found_rows) / len(found_rows))
    for style, prefix in (("analysis", "refine"), ("code", "refine-code")):
        found, _ = read(out / f"refine-{style}", "refine")
        for turn, method in zip(found.turns, found.best_of_n.methods, strict=True):
            add(f"{prefix}-{turn.turn}", method, turn.policy + turn.prm)
            figures[f"{prefix}-{turn.turn}"] |= {"fixed": turn.fixed, "broken": turn.broken}
    add("pass@8", table["pass@n", 8], cost[8].policy)

    print(f"\n{'method':<20} {'accuracy':>9} {'95 % interval':>16} {'tokens':>8}")
    for name, one in figures.items():
        interval = f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"
        print(f"{name:<20} {100 * one['accuracy']:>8.1f}% {interval:>16} {one['tokens']:>8,}")
    for first, second in (
        ("pass@1", "best-of-8/code"),
        ("majority@8", "best-of-8/code"),
        ("best-of-8/no-code", "best-of-8/code"),
        ("best-of-8/code", "weighted@8"),
        ("best-of-8/code", "beam"),
        ("best-of-8/code", "dvts"),
        ("weighted@8", "beam"),
        ("weighted@8", "dvts"),
        ("refine-0", "refine-3"),
        ("refine-3", "refine-code-3"),
    ):
        gap = mean_difference(outcomes[first], outcomes[second])
        low, high = 100 * gap.interval.low, 100 * gap.interval.high
        print(f"{second} - {first}: {100 * gap.value:+.1f} ({low:+.1f} to {high:+.1f}, p {gap.p:.4f})")
    return figures


async def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for the same beam searches, one at a time and side by side."""
    import genprm
    from genprm.config import PolicyConfig
    from genprm.data.problems import generated
    from genprm.engines import load_engine
    from genprm.prms.calls import call_seed
    from genprm.search.policy import Policy
    from genprm.search.run import Grade, Method, SearchSettings, search

    class NoGrader:
        async def grade(self, reference: str | None, solutions: Any) -> list[Grade]:
            return [Grade(None, None) for _ in solutions]

    engine = await load_engine(options.engine, options.policy, max_num_seqs=options.sequences)
    prm = await genprm.load_prm("nano", engine=options.engine, sandbox=options.sandbox, max_num_seqs=options.sequences)
    policy = Policy(engine, PolicyConfig(temperature=1.0, max_tokens=256))
    figures: dict[str, Any] = {"engine": options.engine}

    async def timed(settings: SearchSettings, problems: int, at_once: int, seed: int) -> dict[str, float]:
        gate = asyncio.Semaphore(at_once)

        async def one(row: Any) -> int:
            async with gate:
                found = await search(row, settings, policy=policy, prm=prm, grader=NoGrader(), seed=seed)
                return found.generated

        started = time.perf_counter()
        tokens = sum(await asyncio.gather(*(one(row) for row in generated(problems, SEED))))
        seconds = time.perf_counter() - started
        return {
            "problems": problems,
            "seconds": round(seconds, 2),
            "per_problem_s": round(seconds / problems, 3),
            "tokens_per_s": round(tokens / seconds, 1),
        }

    try:
        await timed(SearchSettings(Method.BEAM, n=8, width=4, iterations=10), 2, 2, call_seed(1))
        for n in options.n:
            settings = SearchSettings(Method.BEAM, n=n, width=4, iterations=10)
            # Another seed a measurement: nothing of one is in the prefix cache of the next.
            alone = await timed(settings, options.alone, 1, 10 * n)
            together = await timed(settings, options.problems, options.problems, 10 * n + 1)
            speedup = round(alone["per_problem_s"] / together["per_problem_s"], 2)
            figures[str(n)] = {"one_at_a_time": alone, "side_by_side": together, "speedup": speedup}
            print(f"beam search, n {n}: {alone}, {together}: {speedup} times as fast side by side", flush=True)
    finally:
        await prm.close()
        await engine.close()
    return figures


def main() -> None:
    """Measures, prints, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["methods", "speed"])
    parser.add_argument("--problems", type=int, help="500 for methods, 32 for speed by default")
    parser.add_argument("--policy", default="nano-policy", help="the model that writes solutions")
    parser.add_argument("--alone", type=int, default=32, help="problems searched one at a time, for speed")
    parser.add_argument("--n", type=int, nargs="+", default=[4, 8, 16], help="sizes of the beam, for speed")
    parser.add_argument("--engine", default="transformers", choices=["vllm", "transformers"])
    parser.add_argument("--sequences", type=int, default=256, help="sequences decoded at once, for speed")
    parser.add_argument("--sandbox", default="auto", choices=["auto", "docker", "bubblewrap"])
    parser.add_argument("--out", default=str(ROOT / "runs" / "search-benchmark"), help="folder of the runs")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/search.json or search_speed.json")
    options = parser.parse_args()
    options.problems = options.problems or (MOST if options.part == "methods" else 32)
    figures = methods(options) if options.part == "methods" else asyncio.run(speed(options))
    line = json.dumps(figures)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        name = "search" if options.part == "methods" else "search_speed"
        (RESULTS / f"{name}.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
