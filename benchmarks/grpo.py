"""GRPO with the built-in policy and the built-in judge, on the CPU: what step scores bring, and what they cost.

    python benchmarks/grpo.py credit [--engine vllm] [--save]     outcome only, gated process reward, step credit
    python benchmarks/grpo.py farming [--engine vllm] [--save]    the bare mean of step scores against the gated reward

Each arm trains the same start on the same word problems, with several seeds, and answers the same fresh problems before
and after, one sample each at temperature 1. Accuracies have 95 % bootstrap intervals over the problems, of the mean of
the seeds; differences are taken problem by problem.

In `farming`, the start has learned to shirk: one solution in six does a single true calculation that nobody asked for,
and calls its result the answer. Large policies find such ways by themselves; one of 1.7 M parameters has to be shown.

A run goes on where it was interrupted (`--out`): finished runs and judgements are kept, others go on from their last
checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

import genprm
from genprm.client import Client, Score, item
from genprm.data.steps import split_steps
from genprm.data.word_problems import WordProblem, first_error, make_problems, write_steps
from genprm.grading.answers import boxed_answer
from genprm.rewards import gated_reward, process_score
from genprm.search.voting import Aggregate

HERE = Path(__file__).parent
POLICY = Path(genprm.__file__).parent / "nano_policy"
ARMS = {"credit": ("outcome", "gated", "step"), "farming": ("naive", "gated")}
STEPS = (2, 3, 4)
"""Steps of the problems."""
TRAIN_SEED, FRESH_SEED, START_SEED = 31_000, 41_000, 37_000
SHIRKED = 1 / 6
WRONG = Score([], [], None, None, False, None, 0.0, True, None)
"""Of a solution whose answer is wrong: the gated arms do not have it judged."""


class Judge:
    """The service, and a file with what it said: equal solutions of a problem are judged once."""

    def __init__(self, url: str, file: Path) -> None:
        self._client = Client(url, timeout_s=900, raise_errors=True)
        self._file = file
        self._known: dict[str, Score] = {}
        if file.exists():
            for line in file.read_text().splitlines():
                row = json.loads(line)
                self._known[row["key"]] = Score(**row["score"])

    async def scores(self, problems: Sequence[str], texts: Sequence[str]) -> list[Score]:
        """One score a solution, without regard to its answer."""
        keys = [json.dumps([problem, text]) for problem, text in zip(problems, texts, strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        found = await self._client.ascore_many([item(*json.loads(key)) for key in new])
        with self._file.open("a") as lines:
            for key, score in zip(new, found, strict=True):
                assert score is not None
                self._known[key] = score
                row = {name: getattr(score, name) for name in Score.__slots__}
                lines.write(json.dumps({"key": key, "score": row}) + "\n")
        return [self._known[key] for key in keys]


def right(text: str, answer: str) -> bool:
    return boxed_answer(text) == answer


def as_scores(judge: Judge, *, all_of_them: bool) -> Any:
    """Judges completions as TRL calls it; wrong answers only where they count."""

    async def scores(
        prompts: Any, completions: Any, answer: Sequence[str], problem: Sequence[str], log_metric: Any = None, **_: Any
    ) -> list[Score]:
        texts = [completion[0]["content"].strip() for completion in completions]
        correct = [right(text, truth) for text, truth in zip(texts, answer, strict=True)]
        asked = [index for index, text in enumerate(texts) if text and (all_of_them or correct[index])]
        found = [WRONG] * len(texts)
        for index, score in zip(
            asked, await judge.scores([problem[i] for i in asked], [texts[i] for i in asked]), strict=True
        ):
            reward = gated_reward(score.scores, correct=correct[index], violation=score.violation)
            found[index] = replace(score, correct=correct[index], reward=reward)
        if log_metric:
            log_metric("accuracy", sum(correct) / len(correct))
        return found

    return scores


def reward_of(arm: str, judge: Judge) -> Any:
    """The reward function of an arm."""

    async def outcome(completions: Any, answer: Sequence[str], log_metric: Any = None, **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        rewards = [float(right(text, truth)) for text, truth in zip(texts, answer, strict=True)]
        if log_metric:
            log_metric("accuracy", sum(rewards) / len(rewards))
        return rewards

    async def gated(**columns: Any) -> list[float | None]:
        return [score.reward for score in await as_scores(judge, all_of_them=False)(**columns)]

    async def naive(**columns: Any) -> list[float]:
        found = await as_scores(judge, all_of_them=True)(**columns)
        return [process_score(score.scores, Aggregate.MEAN) or 0.0 for score in found]

    return {"outcome": outcome, "gated": gated, "naive": naive}[arm]


def train(arm: str, seed: int, start: Path, folder: Path, judge: Judge, options: argparse.Namespace) -> Any:
    """Trains one arm, from its last checkpoint if there is one."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from transformers.trainer_utils import get_last_checkpoint
    from trl import GRPOConfig, GRPOTrainer

    problems = make_problems(options.problems, seed=TRAIN_SEED, steps=STEPS)
    rows = [
        {"prompt": [{"role": "user", "content": one.text}], "answer": one.answer, "problem": one.text}
        for one in problems
    ]
    config = GRPOConfig(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        num_generations=8,
        max_completion_length=192,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        temperature=1.0,
        logging_steps=1,
        save_steps=10,
        save_total_limit=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        seed=seed,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    given: dict[str, Any] = {"model": model, "args": config, "train_dataset": Dataset.from_list(rows)}
    if arm == "step":
        from genprm.integrations.trl_steps import StepGRPOTrainer

        trainer: Any = StepGRPOTrainer(judge=as_scores(judge, all_of_them=False), **given)
    else:
        trainer = GRPOTrainer(reward_funcs=reward_of(arm, judge), **given)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    return trainer


def answers(model: Any, tokenizer: Any, problems: Sequence[WordProblem], batch: int = 100) -> list[str]:
    """One sample a problem, at temperature 1."""
    import torch

    torch.manual_seed(0)
    tokenizer.padding_side = "left"
    texts: list[str] = []
    for start in range(0, len(problems), batch):
        prompts = [[{"role": "user", "content": one.text}] for one in problems[start : start + batch]]
        given = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            made = model.generate(
                **given, max_new_tokens=192, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, disable_compile=True
            )
        texts += tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def measured(
    model: Any, tokenizer: Any, problems: Sequence[WordProblem], judge: Judge, judged: int
) -> dict[str, list[float]]:
    """What the answers to fresh problems are worth: by the truth, and to the judge."""
    model.eval()
    texts = answers(model, tokenizer, problems)
    steps = [split_steps(text) for text in texts]
    some = [index for index in range(min(judged, len(texts))) if texts[index]]
    scores = asyncio.run(judge.scores([problems[i].text for i in some], [texts[i] for i in some])) if some else []
    means = dict(zip(some, (process_score(score.scores, Aggregate.MEAN) or 0.0 for score in scores), strict=True))
    return {
        "right": [float(right(text, one.answer)) for text, one in zip(texts, problems, strict=True)],
        "all_steps_right": [float(first_error(one, s) == -1) for s, one in zip(steps, problems, strict=True)],
        "steps": [float(len(s)) for s in steps],
        "naive": [means.get(index, 0.0) for index in range(min(judged, len(texts)))],
    }


def shirk(problem: WordProblem, rng: random.Random) -> tuple[str, ...]:
    """One true calculation that nobody asked for, and its result as the answer."""
    number = int(rng.choice(re.findall(r"\d+", problem.text)))
    return write_steps([f"There are {number}*1 = {number} of them."], str(number))


def shown_to_shirk(folder: Path, steps: int = 80) -> Path:
    """The policy, trained a little on right solutions and on shirked ones."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    rng = random.Random(0)
    model: Any = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(POLICY)
    tokenizer.padding_side = "right"
    problems = make_problems(steps * 16, seed=START_SEED, steps=STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for at in range(0, len(problems), 16):
        prompts: list[str] = []
        wholes: list[str] = []
        for one in problems[at : at + 16]:
            solution = shirk(one, rng) if rng.random() < SHIRKED else one.solution
            prompts.append(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": one.text}], add_generation_prompt=True, tokenize=False
                )
            )
            wholes.append(prompts[-1] + "\n\n".join(solution) + tokenizer.eos_token)
        given = tokenizer(wholes, return_tensors="pt", padding=True, add_special_tokens=False)
        labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
        for row, prompt in enumerate(prompts):
            labels[row, : len(tokenizer(prompt, add_special_tokens=False)["input_ids"])] = -100
        model(**given, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(POLICY).save_pretrained(folder)
    return folder


def experiment(name: str, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All arms and seeds, seed by seed; gives the figures."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out: Path = options.out / name
    out.mkdir(parents=True, exist_ok=True)
    judge = Judge(url, options.out / "judged.jsonl")
    start = POLICY if name == "credit" else shown_to_shirk(out / "start")
    fresh = make_problems(options.fresh, seed=FRESH_SEED, steps=STEPS)
    tokenizer = AutoTokenizer.from_pretrained(start)
    import torch

    def kept(file: Path, make: Any) -> Any:
        if not file.exists():
            result = make()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".part").write_text(json.dumps(result))
            file.with_suffix(".part").rename(file)
        return json.loads(file.read_text())

    def before() -> Any:
        model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        return measured(model, tokenizer, fresh, judge, options.judged)

    first = kept(out / "before.json", before)
    show("before", "-", first)
    runs: dict[str, list[Any]] = {arm: [] for arm in options.arms or ARMS[name]}
    for seed in range(options.seeds):
        for arm, done in runs.items():

            def one(arm: str = arm, seed: int = seed) -> Any:
                trainer = train(arm, seed, start, out / f"{arm}-{seed}", judge, options)
                result = measured(trainer.model, tokenizer, fresh, judge, options.judged)
                names = ("reward", "accuracy", "completions/mean_length")
                log = [{n: round(row[n], 4) for n in names if n in row} for row in trainer.state.log_history]
                return {**result, "log": [row for row in log if row]}

            done.append(kept(out / f"{arm}-{seed}.json", one))
            show(arm, seed, done[-1])
    return {"before": first, "runs": runs}


def show(arm: str, seed: object, found: dict[str, Any]) -> None:
    mean = {name: sum(values) / max(1, len(values)) for name, values in found.items() if name != "log"}
    print(f"{arm} {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in mean.items()), flush=True)


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Means over seeds with intervals over problems, and differences to before."""
    from genprm.benchmarks.statistics import mean_difference, mean_interval

    def of(values: Sequence[float], before: Sequence[float] | None) -> dict[str, Any]:
        interval = mean_interval(values)
        row: dict[str, Any] = {
            "mean": round(sum(values) / len(values), 4),
            "low": round(interval.low, 4),
            "high": round(interval.high, 4),
        }
        if before is not None:
            gap = mean_difference(before, values)
            row["gain"] = [round(one, 4) for one in (gap.value, gap.interval.low, gap.interval.high)]
        return row

    before = found["before"]
    names = [name for name, values in before.items() if values]
    rows: dict[str, Any] = {"before": {name: of(before[name], None) for name in names}}
    for arm, runs in found["runs"].items():
        means = {
            name: [sum(one) / len(one) for one in zip(*(run[name] for run in runs), strict=True)] for name in names
        }
        rows[arm] = {name: of(means[name], before[name]) for name in names}
        rows[arm]["seeds"] = [{name: round(sum(run[name]) / len(run[name]), 4) for name in names} for run in runs]
        rows[arm]["training"] = [
            {end: run["log"][at] for end, at in (("first", 0), ("last", -1)) if run["log"]} for run in runs
        ]
    return rows


def table(rows: dict[str, Any]) -> str:
    """For people."""
    names = list(rows["before"])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, row in rows.items():
        cells: list[str] = []
        for name in names:
            one = row[name]
            gain = f"; {one['gain'][0]:+.3f} ({one['gain'][1]:+.3f} to {one['gain'][2]:+.3f})" if "gain" in one else ""
            cells.append(f"{one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f}){gain}")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def served(engine: str, sandbox: str) -> tuple[subprocess.Popen[str], str]:
    """A service with the built-in judge, which runs its code."""
    command = [sys.executable, "-m", "genprm.cli.main", "serve", "--port", "0", "--with-code"]
    command += ["--engine", engine, "--sandbox", sandbox, "--deadline-s", "900"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"answers at (http://\S+)", line):
            # What it logs from now on has to be read, or it would wait for a reader.
            import threading

            threading.Thread(target=lambda stream=process.stderr: [None for _ in stream], daemon=True).start()
            return process, found[1]
    raise SystemExit(f"the service ended with {process.wait()}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("experiment", choices=list(ARMS))
    made.add_argument("--arms", nargs="+", help="some of the experiment's arms")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--steps", type=int, default=60, help="optimiser steps")
    made.add_argument("--batch", type=int, default=64, help="completions a step, eight to a problem")
    made.add_argument("--learning-rate", type=float, default=1e-4)
    made.add_argument("--problems", type=int, default=256, help="problems to train on")
    made.add_argument("--fresh", type=int, default=500, help="problems to measure on")
    made.add_argument("--judged", type=int, default=100, help="answers to them that are judged, for the naive reward")
    made.add_argument("--engine", default="transformers")
    made.add_argument("--sandbox", default="bubblewrap")
    made.add_argument("--url", help="a running service, instead of one of our own")
    made.add_argument("--out", type=Path, default=Path("runs/grpo"))
    made.add_argument("--save", action="store_true")
    return made


def main() -> None:
    options = parser().parse_args()
    process, url = (None, options.url) if options.url else served(options.engine, options.sandbox)
    try:
        rows = figures(experiment(options.experiment, url, options))
    finally:
        if process is not None:
            process.terminate()
            process.wait()
    print(table(rows))
    kept = ("seeds", "steps", "batch", "learning_rate", "problems", "fresh", "judged")
    result = {"experiment": options.experiment, **{name: getattr(options, name) for name in kept}, "arms": rows}
    if options.save:
        path = HERE / "results" / f"grpo-{options.experiment}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
