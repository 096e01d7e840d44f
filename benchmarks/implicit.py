"""Implicit PRMs: tokens per second against a plain loop, and memory for long solutions.

`python benchmarks/implicit.py --save` judges the same short solutions in three ways, in one run:

* plain: one solution at a time, as the released script goes: the chat is rendered and tokenised once a step, then both
  models compute the logits of every token of the chat, their log-softmax, and the log-probabilities in it. Threads that
  wait for each other can be slower than one: it is timed with one and with all, and the better time counts;
* ours: batches of similar length, one tokenisation, logits of the solution's tokens only and never all of them at once;
* ours_cached: the same once more, with the reference's log-probabilities on disk, as when another PRM with the same
  reference, or another setting, judges the same solutions.

Their rewards are compared. Tokens are those of the chats, counted once although two models read them. Weights are
random: they do not matter for speed.

`--precision MODEL` measures, on a trained model (`nano` or a folder), what a reference in fewer bits saves and costs:
tokens per second of one pass over the same solutions in float32, bfloat16 and int8, and by how much each moves the
rewards of steps and the cumulative reward at the end, in nats (beta 1).

The second table is the most memory that scoring one long solution takes beyond the loaded model, each figure in a
process of its own: `plain` holds all logits and their log-softmax, which is why it stops at the shorter length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers

import genprm
from genprm.engines import BUILT_IN, load_engine
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.transformers.engine import TransformersEngine
from genprm.prms.forward import token_logprobs
from genprm.prms.implicit.judge import ImplicitMode, ImplicitPRM, LogprobCache, LogprobModel
from genprm.types import Judgement

RESULTS = Path(__file__).parent / "results"
BUILT_IN_PATH = Path(genprm.__file__).parent / "nano"
Row = tuple[str, list[str]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's size."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SHAPES = {
    "built-in": Shape(2048, 256, 512, 5, 4, 4),
    "wide": Shape(151_936, 256, 512, 5, 4, 4),
    "0.5B": Shape(151_936, 896, 4864, 24, 14, 2),
}
"""The built-in model's; the same with Qwen2.5's vocabulary; Qwen2.5-0.5B's."""
MEMORY_SHAPE = Shape(151_936, 64, 128, 1, 1, 1)
"""So small that logits dominate the memory."""


def network(shape: Shape, seed: int, context: int = 8192) -> transformers.Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    return transformers.Qwen2ForCausalLM(config).eval()


def solutions(count: int, seed: int) -> list[Row]:
    """Arithmetic solutions of three to six steps, each with a problem of one or two sentences."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for _ in range(count):
        total = rng.randint(10, 99)
        steps = [f"At first there are {total} apples."]
        for _ in range(rng.randint(2, 5)):
            sign, number = rng.choice("+-*"), rng.randint(2, 20)
            new = {"+": total + number, "-": total - number, "*": total * number}[sign]
            steps.append(f"Then there are {total}{sign}{number} = {new} apples.")
            total = max(new, 21)
        rows.append((f"A shop has {rng.randint(10, 99)} apples. How many are there in the end?", steps))
    return rows


def plain(models: Sequence[Any], hf: Any, rows: Sequence[Row], beta: float) -> list[list[float]]:
    """Cumulative rewards by a loop over solutions."""

    def render(problem: str, steps: Sequence[str]) -> str:
        answer = "\n\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, 1))
        chat = [{"role": "user", "content": problem}, {"role": "assistant", "content": answer}]
        return hf.apply_chat_template(chat, tokenize=False, add_generation_prompt=False)

    found: list[list[float]] = []
    with torch.inference_mode():
        for problem, steps in rows:
            ids = hf(render(problem, steps), add_special_tokens=False, return_tensors="pt").input_ids.to(
                models[0].device
            )
            ends: list[int] = []
            for count in range(len(steps) + 1):
                text = render(problem, steps[:count]).strip() + ("\n\n" if 0 < count < len(steps) else "")
                ends.append(len(hf(text, add_special_tokens=False).input_ids) - 2)
            sides: list[torch.Tensor] = []
            for model in models:
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
                logprobs = logits[:, :-1].float().log_softmax(-1)
                sides.append(logprobs.gather(-1, ids[:, 1:, None])[0, :, 0])
            ratio = sides[0] - sides[1]
            ratio[: ends[0]] = 0
            total = beta * ratio.double().cumsum(0)
            found.append(total[ends[1:]].tolist())
    return found


async def compare(name: str, count: int, beta: float = 1.0) -> dict[str, float]:
    """Times the three ways on a shape."""
    rows = solutions(count, seed=1)
    shape = SHAPES[name]
    models = [network(shape, seed) for seed in (1, 2)]
    tokenizer = Tokenizer.from_pretrained(str(BUILT_IN_PATH))
    hf = transformers.PreTrainedTokenizerFast.from_pretrained(BUILT_IN_PATH)
    plain(models, hf, rows[:2], beta)
    threads = torch.get_num_threads()
    seconds, best = {"plain": math.inf}, threads
    expected: list[list[float]] = []
    for used in sorted({1, threads}):
        torch.set_num_threads(used)
        started = time.perf_counter()
        expected = plain(models, hf, rows, beta)
        if (taken := time.perf_counter() - started) < seconds["plain"]:
            seconds["plain"], best = taken, used
    torch.set_num_threads(threads)

    engines = [TransformersEngine(model, tokenizer, model_name=str(side)) for side, model in enumerate(models)]
    tokens = 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            own = LogprobModel(engines[0])
            bare = LogprobModel(engines[1])
            # To the released script's indices, which the plain loop follows: not timed, and the engines are warm then.
            check = ImplicitPRM(own, bare, tokenizer, beta=beta, mode=ImplicitMode.UPSTREAM)
            for row, values in zip(await check.judge_rows(rows), expected, strict=True):
                if not isinstance(row, Judgement):
                    raise row
                got = [step.log_odds or 0.0 for step in row.steps]
                if not all(math.isclose(a, b, abs_tol=0.02) for a, b in zip(got, values, strict=True)):
                    raise AssertionError(f"rewards differ: {got!r} is not {values!r}")
                tokens += row.tokens.prompt
            reference = LogprobModel(engines[1], tokenizer=tokenizer, cache=LogprobCache(Path(folder)))
            prm = ImplicitPRM(own, reference, tokenizer, beta=beta)
            for way in ("ours", "ours_cached"):
                started = time.perf_counter()
                await prm.judge_rows(rows)
                seconds[way] = time.perf_counter() - started
            if reference.hits != len(rows):
                raise AssertionError(f"{reference.hits} of {len(rows)} answers came from the cache")
    finally:
        for engine in engines:
            await engine.close()
    rates = {way: tokens / taken for way, taken in seconds.items()}
    return rates | {"tokens": tokens, "solutions": len(rows), "threads": threads, "plain_threads": best}


async def precision(model: str, count: int) -> dict[str, dict[str, float]]:
    """What each type of weights saves and costs, against float32: type -> figures."""
    rows = solutions(count, seed=1)
    found: dict[str, dict[str, float]] = {}
    exact: list[list[float]] = []
    for dtype in ("float32", "bfloat16", "int8"):
        engine = await load_engine("transformers", str(BUILT_IN.get(model, model)), dtype=dtype)
        prm = ImplicitPRM(LogprobModel(engine), None, engine.tokenizer, beta=1.0)
        try:
            await prm.judge_rows(rows[:4])
            started = time.perf_counter()
            judged = await prm.judge_rows(rows)
            taken = time.perf_counter() - started
        finally:
            await engine.close()
        if any(isinstance(row, Exception) for row in judged):
            raise AssertionError(next(row for row in judged if isinstance(row, Exception)))
        done = [row for row in judged if isinstance(row, Judgement)]
        ends = [[step.log_odds or 0.0 for step in row.steps] for row in done]
        exact = exact or ends
        whole = [abs(a[-1] - b[-1]) for a, b in zip(ends, exact, strict=True)]
        steps = [
            abs((a - before_a) - (b - before_b))
            for one, other in zip(ends, exact, strict=True)
            for a, before_a, b, before_b in zip(one, [0.0, *one], other, [0.0, *other], strict=False)
        ]
        found[dtype] = {
            "tokens_per_s": sum(row.tokens.prompt for row in done) / taken,
            "step_mean": sum(steps) / len(steps),
            "step_most": max(steps),
            "solution_mean": sum(whole) / len(whole),
        }
    return found


def memory(way: str, length: int) -> float:
    """Memory in MB that scoring a solution of so many tokens takes at most, beyond what stood before."""
    model = network(MEMORY_SHAPE, 1, context=length)
    ids = [random.Random(1).randrange(MEMORY_SHAPE.vocabulary) for _ in range(length)]

    def status(field: str) -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024 / 1e6

    with torch.inference_mode():
        token_logprobs(model, [(ids[:16], 1)])
        # What loading took at its peak is not to count.
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        if way == "plain":
            logprobs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, :-1].float().log_softmax(-1)
            logprobs.gather(-1, torch.tensor([ids])[:, 1:, None])
        else:
            token_logprobs(model, [(ids, 1)])
    return status("VmHWM") - before


def main() -> None:
    """Measures, prints, and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["built-in", "wide"], choices=list(SHAPES))
    parser.add_argument("--count", type=int, default=200, help="solutions (default: %(default)s)")
    parser.add_argument("--lengths", type=int, nargs="*", default=[2048, 8192], help="tokens for the memory table")
    parser.add_argument("--precision", nargs="*", default=["nano"], metavar="MODEL", help="default: %(default)s")
    parser.add_argument("--save", action="store_true", help="enter it into benchmarks/results/implicit.json")
    options = parser.parse_args()
    figures: dict[str, Any] = {"speed": {}, "precision": {}, "memory_mb": {}}
    print(f"tokens per second, {torch.get_num_threads()} threads, float32")
    print(f"{'shape':<10}{'solutions':>10}{'tokens':>9}{'plain':>9}{'ours':>9}{'cached':>9}{'times':>8}{'cached':>8}")
    for name in options.shapes:
        row = asyncio.run(compare(name, options.count if name != "0.5B" else max(8, options.count // 10)))
        figures["speed"][name] = {key: round(value, 1) for key, value in row.items()}
        print(
            f"{name:<10}{row['solutions']:>10.0f}{row['tokens']:>9.0f}{row['plain']:>9.0f}{row['ours']:>9.0f}"
            f"{row['ours_cached']:>9.0f}{row['ours'] / row['plain']:>8.2f}{row['ours_cached'] / row['plain']:>8.2f}",
            flush=True,
        )
    for model in options.precision:
        name = Path(model).name
        types = asyncio.run(precision(model, options.count))
        figures["precision"][name] = {kind: {key: round(v, 4) for key, v in row.items()} for kind, row in types.items()}
        print(
            f"\n{name}, one model\n{'type':<10}{'tokens/s':>9}{'times':>7}{'step, nats':>12}{'most':>7}{'solution':>10}"
        )
        for kind, row in types.items():
            times = row["tokens_per_s"] / types["float32"]["tokens_per_s"]
            print(
                f"{kind:<10}{row['tokens_per_s']:>9.0f}{times:>7.2f}{row['step_mean']:>12.4f}{row['step_most']:>7.3f}"
                f"{row['solution_mean']:>10.4f}",
                flush=True,
            )
    print(f"\nMB for one solution, vocabulary of {MEMORY_SHAPE.vocabulary}\n{'tokens':<10}{'plain':>9}{'ours':>9}")
    context = multiprocessing.get_context("spawn")
    for length in options.lengths:
        row = {}
        for way in ("plain", "ours"):
            # Plain takes three times the logits: 15 GB at 8,192 tokens.
            if way == "plain" and length > 2048:
                continue
            with context.Pool(1) as pool:
                row[way] = pool.apply(memory, (way, length))
        figures["memory_mb"][str(length)] = {key: round(value) for key, value in row.items()}
        print(f"{length:<10}{row.get('plain', math.nan):>9.0f}{row['ours']:>9.0f}", flush=True)
    line = json.dumps(figures)
    if options.save:
        path = RESULTS / "implicit.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for part in ("speed", "precision", "memory_mb"):
            figures[part] = kept.get(part, {}) | figures[part]
        path.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
