"""Everything that waits for a GPU, in one command of at most nine minutes.

`python benchmarks/gpu.py` goes through its stages in order, for as long as `--minutes` allow, and keeps each result in
`--state` as soon as it is there: the same command again goes on with what is missing. A stage that cannot run here, or
fails, is skipped with its reason. It needs torch and transformers, and no network: all weights are random.

* device: what the card copies and multiplies, against which the others are measured;
* engine-1.5B, engine-7B: the transformers engine on Qwen2 shapes: tokens decoded a second beside what the memory's
  bandwidth allows (weights once a step, keys and values once a sequence), and prompt tokens a second;
* chains: GenPRM's chains a second on the 1.5B shape at 1, 32, 128 and 256 at once, with a real sandbox, beside one at a
  time and lock-step rounds. The model computes as many tokens as a judgement has; what it says is prepared;
* implicit: an implicit PRM and its reference of 1.5B against the plain loop over both;
* train: steps of retraining the built-in model, where `--data` names GSM8K's training rows;
* vllm: benchmarks/throughput.py on vLLM, where it is installed.

`--toy` makes everything small enough for a CPU, so that the script itself is tested.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import driver, implicit, throughput
from genprm.config import Mode
from genprm.engines import BUILT_IN, Completion, Sampling
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.transformers.engine import TransformersEngine
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.implicit.judge import ImplicitPRM, LogprobModel
from genprm.sandbox import open_sandbox

SHAPES = {
    "1.5B": implicit.Shape(151_936, 1536, 8960, 28, 12, 2),
    "7B": implicit.Shape(152_064, 3584, 18_944, 28, 28, 4),
    "toy": implicit.Shape(2048, 64, 128, 2, 2, 2),
}
"""Of Qwen2.5-Math; heads of 128."""

Figures = dict[str, Any]


class SkippedError(Exception):
    """A stage cannot run here."""


class Bench:
    """What the stages share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.toy: bool = options.toy
        self.device = torch.device("cpu" if options.toy or not torch.cuda.is_available() else "cuda")
        if self.device.type == "cpu" and not self.toy:
            raise SystemExit("there is no GPU that torch can use; --toy runs the same at the size of a toy")
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.data: Path | None = options.data
        self.sandbox: str = options.sandbox
        self.bandwidth = 0.0
        self.chains: list[int] = [1, 2] if self.toy else [1, 32, 128, 256]

    @property
    def card(self) -> str:
        """The name of the device."""
        return torch.cuda.get_device_name(0) if self.device.type == "cuda" else "CPU"

    def sync(self) -> None:
        """Waits for what was started on the card."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time(self, work: Callable[[], object], least_s: float = 0.3) -> float:
        """Seconds of one call, the best of several, warm."""
        work()
        best, started = float("inf"), time.perf_counter()
        while time.perf_counter() - started < least_s:
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            best = min(best, time.perf_counter() - began)
        return best

    def engine(self, shape: str, seqs: int) -> TransformersEngine:
        """The transformers engine on a model of random weights."""
        with torch.device(self.device):
            before = torch.get_default_dtype()
            torch.set_default_dtype(self.dtype)
            try:
                model = implicit.network(SHAPES["toy" if self.toy else shape], 1)
            finally:
                torch.set_default_dtype(before)
        # Nothing ends a turn but the length that is asked for.
        model.generation_config.eos_token_id = None
        return TransformersEngine(
            model, Tokenizer.from_pretrained(str(BUILT_IN["nano"])), model_name=shape, max_num_seqs=seqs
        )


async def device(bench: Bench) -> Figures:
    """Bytes copied and operations a second."""
    count = 1 << (22 if bench.toy else 28)
    source = torch.ones(count, dtype=torch.float32, device=bench.device)
    target = torch.empty_like(source)
    copied = 8 * count / bench.time(lambda: target.copy_(source))
    size = 256 if bench.toy else 8192
    left, right = (torch.randn(size, size, dtype=bench.dtype, device=bench.device) for _ in range(2))
    product = 2 * size**3 / bench.time(lambda: left @ right)
    return {"copy_gb_per_s": round(copied / 1e9, 1), "matmul_tflops": round(product / 1e12, 3)}


async def engine(bench: Bench, shape: str) -> Figures:
    """Tokens decoded and computed a second, and what the memory's bandwidth allows."""
    opened = bench.engine(shape, max(bench.chains))
    figures: Figures = {"decode_tokens_per_s": {}, "limit_tokens_per_s": {}}
    try:
        config: Any = opened.model.config if opened.model is not None else None
        weights = sum(p.numel() * p.element_size() for p in opened.model.parameters()) if opened.model else 0
        head = config.hidden_size // config.num_attention_heads
        each = 2 * config.num_hidden_layers * config.num_key_value_heads * head * (4 if bench.toy else 2)
        length, tokens = (32, 8) if bench.toy else (512, 64)
        prompt = [5 + n % 1000 for n in range(length)]
        await opened.generate(prompt, Sampling(2))
        for count in bench.chains:
            started = time.perf_counter()
            await asyncio.gather(*(opened.generate([*prompt, 5 + n], Sampling(1)) for n in range(count)))
            prefill = time.perf_counter() - started
            started = time.perf_counter()
            done = await asyncio.gather(
                *(opened.generate([*prompt, 5 + n], Sampling(1 + tokens)) for n in range(count))
            )
            seconds = time.perf_counter() - started - prefill
            written = sum(one.sampled_tokens for one in done) - count
            figures["decode_tokens_per_s"][str(count)] = round(written / max(seconds, 1e-9), 1)
            figures["prefill_tokens_per_s"] = round(count * (length + 1) / prefill, 1)
            step_s = (weights + count * (length + tokens / 2) * each) / bench.bandwidth
            figures["limit_tokens_per_s"][str(count)] = round(count / step_s, 1)
    finally:
        await opened.close()
    figures["weights_gb"] = round(weights / 1e9, 2)
    return figures


class PreparedTexts:
    """An engine whose model computes as many tokens as are wanted, and which says what is prepared."""

    def __init__(self, inner: TransformersEngine) -> None:
        self._inner, self._answers = inner, driver.Answers()
        self.tokenizer, self.capacity, self.cache_tokens = inner.tokenizer, inner.capacity, None
        self.kind, self.model_name, self.max_model_len = "prepared", inner.model_name, inner.max_model_len

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        said = await self._answers.generate(prompt_ids, sampling, chain=chain)
        await self._inner.generate(prompt_ids, Sampling(len(said.token_ids)))
        return said

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def few_steps(bench: Bench, count: int, seed: int) -> list[throughput.Row]:
    """Solutions short enough that the engine, which computes every prompt from its start, is done within minutes."""
    most = 1 if bench.toy else 4
    return [(problem, steps[:most]) for problem, steps in throughput.solutions(count, seed)]


async def chains(bench: Bench) -> Figures:
    """Chains a second: one at a time, lock-step, and as genprm schedules them."""
    inner = bench.engine("1.5B", max(bench.chains))
    figures: Figures = {"lock_step": {}, "ours": {}}
    try:
        async with open_sandbox(bench.sandbox) as box:  # pyright: ignore[reportArgumentType]
            some_engine: Any = PreparedTexts(inner)

            def make(engine: Any, some_box: Any) -> GenPRM:
                return GenPRM(engine, some_box, mode=Mode.EXECUTE)

            for count in bench.chains:
                rows = few_steps(bench, max(4, count), 10 * count)
                seconds = await throughput.lock_step(make, some_engine, box, rows, count)
                figures["lock_step"][str(count)] = round(len(rows) / seconds, 3)
                rows = few_steps(bench, len(rows), 10 * count + 1)
                seconds, _, spent = await throughput.concurrent(make(some_engine, box), rows, count)
                figures["ours"][str(count)] = round(len(rows) / seconds, 3)
                figures.setdefault("time", {})[str(count)] = throughput.shares(spent, seconds, count)
            figures["one_at_a_time"] = figures["ours"]["1"]
            figures["sandbox"] = box.backend
    finally:
        await inner.close()
    return figures


async def implicit_prm(bench: Bench) -> Figures:
    """Tokens a second of an implicit PRM, and of a loop over both models."""
    from transformers import PreTrainedTokenizerFast

    engines = [bench.engine("1.5B", 8) for _ in range(2)]
    try:
        rows = implicit.solutions(6 if bench.toy else 200, 1)
        hf: Any = PreTrainedTokenizerFast.from_pretrained(str(BUILT_IN["nano"]))
        models = [one.model for one in engines]
        implicit.plain(models, hf, rows[:2], 1.0)
        started = time.perf_counter()
        implicit.plain(models, hf, rows, 1.0)
        loop_s = time.perf_counter() - started
        own, other = (LogprobModel(one) for one in engines)
        prm = ImplicitPRM(own, other, engines[0].tokenizer)
        await prm.judge_rows(rows[:2])
        started = time.perf_counter()
        judged: Any = await prm.judge_rows(rows)
        ours_s = time.perf_counter() - started
        tokens = sum(one.tokens.prompt for one in judged)
    finally:
        for one in engines:
            await one.close()
    return {
        "plain_tokens_per_s": round(tokens / loop_s, 1),
        "ours_tokens_per_s": round(tokens / ours_s, 1),
        "ratio": round(loop_s / ours_s, 2),
    }


async def train(bench: Bench) -> Figures:
    """Seconds for some steps of retraining the built-in model."""
    if bench.data is None:
        raise SkippedError("--data names no GSM8K training rows")
    steps = 2 if bench.toy else 200
    script = Path(__file__).parents[1] / "recipes" / "nano" / "train.py"
    out = Path(os.environ.get("TMPDIR", "/tmp")) / f"genprm-gpu-train-{os.getpid()}"
    command = [sys.executable, str(script), "--data", str(bench.data), "--out", str(out), "--epochs=1"]
    started = time.perf_counter()
    await _child([*command, f"--max-steps={steps}"], 420)
    return {"steps": steps, "seconds_with_start": round(time.perf_counter() - started, 1)}


async def vllm(bench: Bench) -> Figures:
    """The benchmark of chains on vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise SkippedError("vLLM is not installed")
    if bench.toy:
        raise SkippedError("vLLM has a benchmark of its own on a CPU: benchmarks/throughput.py")
    counts = ["32", "128", "512"]
    script = str(Path(__file__).parent / "throughput.py")
    said = await _child(
        [sys.executable, script, "--engine=vllm", f"--sandbox={bench.sandbox}", "--chains", *counts], 480
    )
    return json.loads(said.splitlines()[-1])


async def _child(command: list[str], limit_s: float) -> str:
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=limit_s, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:3])} ended with {done.returncode}: {done.stderr[-400:]}")
    return done.stdout


STAGES: dict[str, tuple[Callable[[Bench], Awaitable[Figures]], float]] = {
    "device": (device, 20),
    "engine-1.5B": (lambda bench: engine(bench, "1.5B"), 60),
    "engine-7B": (lambda bench: engine(bench, "7B"), 90),
    "chains": (chains, 180),
    "implicit": (implicit_prm, 60),
    "train": (train, 120),
    "vllm": (vllm, 300),
}
"""Each with the seconds that it is expected to take."""


def main() -> None:
    """Runs what is missing, and prints all."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="no stage starts that is not expected to end by then"
    )
    parser.add_argument("--state", type=Path, default=Path("gpu.json"), help="results so far; the same command goes on")
    parser.add_argument("--only", nargs="+", choices=list(STAGES), help="these stages alone")
    parser.add_argument("--again", action="store_true", help="also stages that were skipped or failed before")
    parser.add_argument("--data", type=Path, help="GSM8K training rows, for the stage train")
    parser.add_argument("--sandbox", default="auto", choices=["auto", "docker", "bubblewrap"])
    parser.add_argument("--toy", action="store_true", help="small enough for a CPU")
    options = parser.parse_args()
    bench, started = Bench(options), time.monotonic()
    state: Figures = json.loads(options.state.read_text()) if options.state.exists() else {"stages": {}}
    if state.setdefault("card", bench.card) != bench.card:
        raise SystemExit(
            f"{options.state} holds results of {state['card']!r}, and this is {bench.card!r}: name another"
        )
    state |= {"torch": torch.__version__, "toy": bench.toy}
    left: list[str] = []
    for name in options.only or STAGES:
        work, expected_s = STAGES[name]
        found = state["stages"].get(name)
        if found is not None and not (options.again and "skipped" in found):
            continue
        if time.monotonic() - started + (1 if bench.toy else expected_s) > 60 * options.minutes:
            left.append(name)
            continue
        bench.bandwidth = 1e9 * state["stages"].get("device", {}).get("copy_gb_per_s", 0.0) or 1e9
        began = time.monotonic()
        try:
            rest_s = max(30.0, 60 * options.minutes - (began - started))
            found = asyncio.run(asyncio.wait_for(work(bench), rest_s))
        except SkippedError as error:
            found = {"skipped": str(error)}
        except Exception as error:
            traceback.print_exc()
            found = {"skipped": f"failed: {type(error).__name__}: {error}"[:300]}
        state["stages"][name] = found | {"seconds": round(time.monotonic() - began, 1)}
        options.state.write_text(json.dumps(state) + "\n", encoding="utf-8")
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        print(f"{name}: {json.dumps(state['stages'][name])}", flush=True)
    print(f"\n{state['card']}, torch {state['torch']}")
    for name, found in state["stages"].items():
        for key, value in found.items():
            print(f"{name:>12}  {key:<24} {value}")
    if left:
        print(f"no time left for {', '.join(left)}: the same command goes on with them")
    print(json.dumps(state | {"left": left}))


if __name__ == "__main__":
    main()
