"""Discriminative and implicit PRMs trained on the built-in policy's rollouts, beside the generative built-in judge.

`python -P benchmarks/heads.py --save` labels word problems by rollouts, samples outcomes, trains a head for every kind
of label and an implicit PRM for both objectives, and judges solutions of fresh problems, whose truth is known. It
prints

* F1 and accuracies of the first wrong step (truth by rule), with 95 % intervals over the solutions,
* seconds a solution, the judges in turn on the same solutions, the median of the rounds,
* best-of-8 against majority@8, with intervals over the problems and differences in pairs.

Every stage is a command's own run in the folder, and a second start resumes the first one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm import load_prm
from genprm.benchmarks.processbench import blind_floor, f1_score, tune_threshold, uniform_floor
from genprm.benchmarks.statistics import Hit, f1_interval, mean_difference, mean_interval
from genprm.cli.main import app
from genprm.config import PolicyConfig
from genprm.data.word_problems import WordProblem, first_error, make_problems
from genprm.engines import load_engine
from genprm.prms.base import PRM
from genprm.prms.calls import call_seed
from genprm.runs.folder import read_rows_of, write_atomically
from genprm.runs.rows import VerifyRow
from genprm.search.policy import Policy, SolutionState
from genprm.search.voting import Aggregate, pick_best, pick_majority, reward

SEEDS = {"labels": 31, "outcomes": 32, "fresh": 33}
"""Seeds of the problems. The policy was trained on other seeds."""
SAMPLES = 8
LABELLING = ["--budget", "8", "--first", "8", "--most", "16", "--temperature", "1.0", "--max-tokens", "300"]
HEAD = ["--model", "nano-policy", "--epochs", "3", "--learning-rate", "5e-4"]
IMPLICIT = ["--model", "nano-policy", "--epochs", "2", "--learning-rate", "1e-4", "--beta", "0.1"]
BATCHES = ["--batch-size", "16", "--device-batch-size", "16", "--dtype", "float32", "--eval-steps", "1000"]
_BOX = re.compile(r"\\boxed\{([^{}]*)\}")


def run(out: Path, *arguments: str) -> None:
    """One run of the command line; goes on with what is in the folder, and does nothing where it is finished."""
    if (metrics := out / "metrics.json").exists() and not json.loads(metrics.read_bytes()).get("interrupted"):
        return
    print("$ genprm", *arguments, "--out", out, flush=True)
    # In this process: libraries are imported once.
    code = app([*arguments, "--out", str(out)], standalone_mode=False)
    if code:
        raise SystemExit(code)


def answer_of(steps: Sequence[str]) -> str | None:
    """The content of the last box."""
    found = _BOX.findall(steps[-1]) if steps else []
    return found[-1].strip() if found else None


async def sample(problems: Sequence[WordProblem], path: Path) -> None:
    """Appends eight solutions of each problem, with their outcomes and the truth about their steps."""
    there = read(path)
    done = len(there) // SAMPLES
    if done == len(problems):
        return
    print(f"sampling {(len(problems) - done) * SAMPLES} solutions: {path.name}", flush=True)
    engine = await load_engine("transformers", "nano-policy", max_num_seqs=64)
    policy = Policy(engine, PolicyConfig(temperature=1.0, max_tokens=256))

    async def one(place: int, number: int) -> dict[str, Any]:
        problem = problems[place]
        made = await policy.finish(policy.begin(problem.text), call_seed(SEEDS["fresh"], place, number))
        steps = list(made.steps) if made.state is SolutionState.FINISHED else []
        answer = answer_of(steps)
        return {
            "problem": problem.text,
            "steps": steps,
            "answer": answer,
            "final_answer_correct": answer == problem.answer,
            "label": first_error(problem, steps) if steps else None,
        }

    for start in range(done, len(problems), SAMPLES):
        places = range(start, min(start + SAMPLES, len(problems)))
        rows = await asyncio.gather(*(one(place, k) for place in places for k in range(SAMPLES)))
        # All rows of some problems, or none.
        write(path, there := [*there, *rows])
    await engine.close()


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as JSON Lines."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where it is not there yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def data(options: argparse.Namespace, out: Path) -> None:
    """Labels, outcomes and fresh solutions."""
    given = ["--generate", str(options.problems), "--generate-seed", str(SEEDS["labels"])]
    run(out / "labels", "label", *given, *LABELLING, "--engine", "transformers")
    trained = make_problems(options.problems, SEEDS["labels"])
    seen = {problem.text for problem in trained}
    more = [p for p in make_problems(options.outcomes + 50, SEEDS["outcomes"]) if p.text not in seen][
        : options.outcomes
    ]
    seen |= {problem.text for problem in more}
    fresh = [p for p in make_problems(options.fresh + 50, SEEDS["fresh"]) if p.text not in seen][: options.fresh]
    for name, problems in (("outcomes", more), ("fresh", fresh)):
        asyncio.run(sample(problems, out / f"{name}.jsonl"))
    import pyarrow.parquet as pq

    table: Any = pq.read_table(out / "labels" / "dataset" / "data").to_pylist()
    by_text = {problem.text: problem for problem in trained}
    truths = [{**row, "label": first_error(by_text[row["problem"]], row["steps"])} for row in table]
    names = ("problem", "steps", "label", "final_answer_correct")
    write(out / "truth.jsonl", [{name: row[name] for name in names} for row in truths])
    # An unfinished solution has no steps and cannot be learned from.
    outcomes = [*read(out / "truth.jsonl"), *read(out / "outcomes.jsonl")]
    write(out / "finished.jsonl", [row for row in outcomes if row["steps"]])
    distinct = {json.dumps([r["problem"], r["steps"]]): r for r in read(out / "fresh.jsonl") if r["steps"]}
    write(out / "judged.jsonl", list(distinct.values()))


def judges(options: argparse.Namespace, out: Path) -> dict[str, list[str]]:
    """Trains what is not trained yet; the options of `genprm verify` of every judge."""
    made = {
        "generative, code": ["--model", "nano", "--with-code", "--sandbox", options.sandbox],
        "generative, no code": ["--model", "nano", "--no-code"],
    }
    held_out = ["--eval-data", str(out / "judged.jsonl"), "--eval-limit", "100"]
    for kind in options.labels:
        source = out / ("truth.jsonl" if kind == "truth" else "labels")
        labels = ["--labels", "hard" if kind == "truth" else kind]
        folder = out / f"head-{kind}"
        # Held-out rows have hard labels alone.
        watched = held_out if kind in ("hard", "truth") else []
        run(folder, "train", "discriminative", str(source), *labels, *HEAD, *BATCHES, *watched)
        made[f"head, {kind} labels"] = ["--model", str(folder)]
    for objective in options.objectives:
        folder = out / f"implicit-{objective}"
        pairs = ["--objective", objective, *(["--pairs", "6"] if objective == "dpo" else [])]
        run(folder, "train", "implicit", str(out / "finished.jsonl"), *pairs, *IMPLICIT, *BATCHES, *held_out)
        made[f"implicit, {objective}"] = ["--model", str(folder)]
    return made


def judged(out: Path, name: str, how: Sequence[str], rows: str = "judged") -> dict[str, VerifyRow]:
    """A judge's rows, by problem and steps."""
    folder = out / f"verify-{rows}-{slug(name)}"
    run(folder, "verify", str(out / f"{rows}.jsonl"), *how, "--engine", "transformers")
    return {json.dumps([row.problem, [s.step for s in row.steps]]): row for row in read_rows_of(folder, VerifyRow)}


def slug(name: str) -> str:
    """A name for a folder."""
    return re.sub(r"\W+", "-", name)


def found_errors(rows: Sequence[dict[str, Any]], verdicts: dict[str, VerifyRow], threshold: float) -> list[int | None]:
    """First steps below a threshold; None where there is no score before one is found."""
    guesses: list[int | None] = []
    for row in rows:
        scores = [step.score for step in verdicts[key(row)].steps]
        below = next((k for k, score in enumerate(scores) if score is None or score < threshold), -1)
        guesses.append(None if below >= 0 and scores[below] is None else below)
    return guesses


def key(row: dict[str, Any]) -> str:
    """A solution's name."""
    return json.dumps([row["problem"], row["steps"]])


def localisation(rows: Sequence[dict[str, Any]], guesses: Sequence[int | None]) -> dict[str, float]:
    """Official F1 with its interval, in percent."""
    labels = [int(row["label"]) for row in rows]
    score = f1_score(guesses, labels)
    hits = [Hit(label != -1, guess == label) for guess, label in zip(guesses, labels, strict=True)]
    interval = f1_interval([hits])
    assert interval is not None
    assert score.f1 is not None
    values = {"f1": score.f1, "low": interval.low, "high": interval.high}
    values |= {"errors_found": score.error_accuracy or 0.0, "right_confirmed": score.correct_accuracy or 0.0}
    return {name: round(100 * value, 1) for name, value in values.items()}


def rewards_of(verdicts: dict[str, VerifyRow], implicit: bool) -> dict[str, dict[str, float | None]]:
    """Each solution's reward, by how steps are put together."""
    made: dict[str, dict[str, float | None]] = {}
    for name, row in verdicts.items():
        scores, odds = [step.score for step in row.steps], [step.log_odds for step in row.steps]
        if implicit:
            q = [0.0, *(value or 0.0 for value in odds)]
            made[name] = {"min": min(after - before for before, after in pairwise(q)), "last": q[-1]}
        else:
            made[name] = {how.value: reward(scores, how, odds) for how in (Aggregate.MIN, Aggregate.LAST)}
    return made


def best_of(out: Path, tables: dict[str, dict[str, dict[str, float | None]]]) -> dict[str, Any]:
    """Accuracy of what each judge picks among eight, and its distance from the majority's."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read(out / "fresh.jsonl"):
        groups[row["problem"]].append(row)
    problems = list(groups.values())
    outcomes: dict[str, list[float]] = {
        "pass@1": [sum(r["final_answer_correct"] for r in rows) / len(rows) for rows in problems],
        "majority@8": [picked(rows, pick_majority([r["answer"] for r in rows])) for rows in problems],
        "pass@8": [float(any(r["final_answer_correct"] for r in rows)) for rows in problems],
    }
    for name, rewards in tables.items():
        for how in ("min", "last"):
            values = [[rewards[key(r)][how] if r["steps"] else None for r in rows] for rows in problems]
            outcomes[f"best-of-8, {name}, {how}"] = [
                picked(rows, pick_best([r["answer"] for r in rows], value))
                for rows, value in zip(problems, values, strict=True)
            ]
    figures: dict[str, Any] = {}
    for name, values in outcomes.items():
        interval, gap = mean_interval(values), mean_difference(outcomes["majority@8"], values)
        figures[name] = {
            "accuracy": round(100 * sum(values) / len(values), 1),
            "low": round(100 * interval.low, 1),
            "high": round(100 * interval.high, 1),
            "over_majority": round(100 * gap.value, 1),
            "over_low": round(100 * gap.interval.low, 1),
            "over_high": round(100 * gap.interval.high, 1),
        }
    return figures


def picked(rows: Sequence[dict[str, Any]], place: int | None) -> float:
    """1 where the picked solution's answer is right."""
    return 0.0 if place is None else float(rows[place]["final_answer_correct"])


async def seconds(rows: Sequence[dict[str, Any]], made: dict[str, dict[str, Any]], rounds: int) -> dict[str, float]:
    """Seconds a solution, the judges in turn, each with all solutions side by side; loading does not count."""
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, how in made.items():
            prm = await load_prm(**how, engine="transformers")
            gate = asyncio.Semaphore(2 * prm.capacity)

            async def one(row: dict[str, Any], prm: PRM = prm, gate: asyncio.Semaphore = gate) -> None:
                async with gate:
                    await prm.judge(row["problem"], row["steps"])

            await one(rows[0])
            started = time.perf_counter()
            await asyncio.gather(*(one(row) for row in rows))
            times[name].append((time.perf_counter() - started) / len(rows))
            await prm.close()
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def settings_of(name: str, how: Sequence[str], sandbox: str) -> dict[str, Any]:
    """A judge's options as `load_prm` has them. No reference's answer comes from a cache."""
    if name.startswith("implicit"):
        return {"model": how[1], "reference_cache": "none"}
    coded = {"with_code": "--with-code" in how} if name.startswith("generative") else {}
    return {"model": how[1], **coded, **({"sandbox": sandbox} if coded.get("with_code") else {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/heads")
    parser.add_argument("--problems", type=int, default=240, help="problems labelled by rollouts")
    parser.add_argument("--outcomes", type=int, default=250, help="problems with eight outcomes each")
    parser.add_argument("--fresh", type=int, default=100, help="problems that are judged")
    parser.add_argument("--labels", nargs="+", default=["hard", "value", "progress", "truth"], help="heads to train")
    parser.add_argument("--objectives", nargs="+", default=["ce", "dpo"], help="implicit PRMs to train")
    parser.add_argument("--sandbox", default="bubblewrap")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    parser.add_argument("--timed", type=int, default=64, help="solutions of the timing")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    data(options, out)
    made = judges(options, out)
    rows = read(out / "judged.jsonl")
    tuning = read(out / "truth.jsonl")
    verdicts = {name: judged(out, name, how) for name, how in made.items()}
    figures: dict[str, Any] = {"problems": options.fresh, "solutions": len(rows)}
    figures["labels"] = json.loads((out / "labels" / "metrics.json").read_text(encoding="utf-8"))["solutions_labelled"]
    figures["outcomes"] = len(read(out / "finished.jsonl"))
    counts = [int(row["label"]) for row in rows], [len(row["steps"]) for row in rows]
    floors = {"uniform_f1": uniform_floor(*counts), "blind_f1": blind_floor(*counts)}
    figures["floors"] = {name: round(100 * (one.f1 or 0.0), 1) for name, one in floors.items()}
    labels = f1_score([r["label"] for r in labelled(out)], [int(r["label"]) for r in tuning])
    figures["labels_against_truth_f1"] = round(100 * (labels.f1 or 0.0), 1)
    figures["judges"] = {name: localisation(rows, found_errors(rows, one, 0.5)) for name, one in verdicts.items()}
    for name, one in verdicts.items():
        if name.startswith("implicit"):
            # Its threshold comes from solutions whose outcomes it was trained on, and whose steps it was not.
            other = judged(out, name, made[name], "truth")
            scores = [[step.score for step in other[key(row)].steps] for row in tuning]
            tuned = tune_threshold(scores, [int(row["label"]) for row in tuning])
            assert tuned is not None
            figures["judges"][f"{name}, tuned threshold"] = localisation(rows, found_errors(rows, one, tuned.threshold))
    asked = {name: settings_of(name, how, options.sandbox) for name, how in made.items()}
    timed = asyncio.run(seconds(rows[: options.timed], asked, options.rounds))
    for name, value in timed.items():
        figures["judges"][name]["seconds"] = value
    tables = {name: rewards_of(one, name.startswith("implicit")) for name, one in verdicts.items()}
    figures["best_of_8"] = best_of(out, tables)
    show(figures)
    if options.save:
        path = Path(__file__).parent / "results" / "heads.json"
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures))


def labelled(out: Path) -> list[dict[str, Any]]:
    """The rows of the labelling run, in the order of `truth.jsonl`."""
    import pyarrow.parquet as pq

    table: Any = pq.read_table(out / "labels" / "dataset" / "data")
    return table.to_pylist()


def show(figures: dict[str, Any]) -> None:
    """Two tables."""
    print(f"\n{'judge':<34} {'F1':>6} {'95 % interval':>16} {'errors':>7} {'right':>7} {'s a solution':>13}")
    for name, one in figures["judges"].items():
        interval = f"{one['low']} to {one['high']}"
        taken = f"{one['seconds']:.4f}" if "seconds" in one else ""
        print(
            f"{name:<34} {one['f1']:>6} {interval:>16} {one['errors_found']:>7} {one['right_confirmed']:>7} {taken:>13}"
        )
    print(f"\n{'method':<44} {'accuracy':>9} {'95 % interval':>16}   over the majority")
    for name, one in figures["best_of_8"].items():
        interval, over = f"{one['low']} to {one['high']}", f"({one['over_low']:+} to {one['over_high']:+})"
        print(f"{name:<44} {one['accuracy']:>9} {interval:>16}   {one['over_majority']:+} {over}")


if __name__ == "__main__":
    main()
