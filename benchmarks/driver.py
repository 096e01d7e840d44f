"""The driver's cost per chain and step, without model and sandbox, which answer immediately.

`python benchmarks/driver.py` judges solutions of many steps through the whole of GenPRM's protocol (analysis, code,
output, verdict), with its rows written to a run's folder, and prints microseconds of CPU time for each step that a
chain judges. `--against CHECKOUT` measures another version of genprm beside it, in turns, and prints the ratio;
`--profile` prints where the time goes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package. A child of `--against` names another checkout.
sys.path.insert(0, os.environ.get("GENPRM_MEASURED") or str(Path(__file__).parents[1]))

from genprm.config import Mode
from genprm.data.inputs import read_rows
from genprm.engines import BUILT_IN, Completion, Finish, Sampling
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.genprm.judge import GenPRM
from genprm.runs.folder import open_run
from genprm.runs.verify import verify
from genprm.sandbox import Result, Status

ANALYSIS = (
    "The step computes the number of clips sold in May as half of those sold in April. The problem says that 48 clips "
    "were sold in April and half as many in May, so that the number is $48 / 2 = 24$. The step writes the same. It "
    "follows from what is given, and uses nothing that has not been shown. The value is used again in the next step, "
    "so that a mistake here would be carried on: the division must be checked with care.</analyze>\n"
)
CODE = (
    "\n```python\nfrom sympy import Rational\n\napril = 48\nmay = Rational(april, 2)\nclaimed = 24\n"
    'print("Claimed:", claimed)\nprint("Computed:", may)\nprint("Equal:", may == claimed)\n```\n'
)
VERDICT = "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
TURN = ((ANALYSIS, "</analyze>\n"), (CODE, "\n```\n"), (VERDICT, "</output>\n"))
"""What the model writes for a step, generation by generation, and where it stops."""


class Answers:
    """An engine that answers at once, with the three texts of a step in turn."""

    kind = "answers"
    model_name = "answers"
    max_model_len = 1 << 20
    capacity = 1 << 20
    cache_tokens = None

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_pretrained(str(BUILT_IN["nano"]))
        self._known: dict[tuple[str, int], Completion] = {}
        self._asked: dict[str | None, int] = {}

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        await asyncio.sleep(0)
        number = self._asked[chain] = self._asked.get(chain, -1) + 1
        text, stop = TURN[number % len(TURN)]
        watched = len(getattr(sampling, "watch", ()))
        if (done := self._known.get((text, watched))) is None:
            ids = tuple(self.tokenizer.encode(text))
            rows = tuple((-0.1,) * watched for _ in ids) if watched else ()
            done = Completion(text, ids, Finish.STOP, stop, watched=rows, sampled_tokens=len(ids))
            self._known[text, watched] = done
        return done

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        await asyncio.sleep(0)
        return [-0.1] * len(choices)

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to free."""


class AtOnce:
    """A sandbox whose snippets have run before they are asked for."""

    backend, note = "at-once", None

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AtOnce]:
        yield self

    async def run(self, source: str) -> Result:
        await asyncio.sleep(0)
        return Result(Status.OK, "Claimed: 24\nComputed: 24\nEqual: True\n", None, 0.002, False)


async def judge(rows: int, steps: int, chains: int, profile: bool) -> float:
    """Microseconds of CPU time a chain and step."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "rows.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for number in range(rows):
                texts = [f"In month {step} she sold {step}*{number} = {step * number} clips." for step in range(steps)]
                file.write(json.dumps({"id": str(number), "problem": f"What is {number}?", "steps": texts}) + "\n")
        engine: Any = Answers()
        box: Any = AtOnce()
        prm = GenPRM(engine, box, mode=Mode.EXECUTE)
        with open_run(Path(name) / "run", command="verify", config={}) as run:
            started = time.process_time()
            if profile:
                import cProfile
                import pstats

                with cProfile.Profile(time.process_time) as measured:
                    await verify(read_rows([str(source)]), prm, run, concurrency=chains)
                pstats.Stats(measured).sort_stats("tottime").print_stats(35)
            else:
                await verify(read_rows([str(source)]), prm, run, concurrency=chains)
            seconds = time.process_time() - started
            written = [json.loads(line) for line in (run.path / "rows.jsonl").read_text().splitlines()]
        assert len(written) == rows
        assert all(row["verdicts"] == ["Yes"] * steps for row in written), "the protocol took another way"
        assert all(step["code"] == {"ok": 1} for row in written for step in row["steps"])
    return seconds / (rows * steps) * 1e6


def child(checkout: str, options: argparse.Namespace) -> float:
    """The same in a separate process, with the genprm of a checkout."""
    command = [
        sys.executable,
        __file__,
        "--child",
        *(f"--{n}={getattr(options, n)}" for n in ("rows", "steps", "chains")),
    ]
    env = {**os.environ, "GENPRM_MEASURED": checkout, "PYTHONPATH": checkout}
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(shown.stdout.split()[-1])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--chains", type=int, default=64, help="solutions in flight")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is measured; the least counts")
    parser.add_argument("--against", help="another checkout of genprm")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/driver.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child or options.profile:
        print(asyncio.run(judge(options.rows, options.steps, options.chains, options.profile)))
        return
    here = str(Path(__file__).parents[1])
    sides = {"ours": here} | ({"against": options.against} if options.against else {})
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, checkout in sides.items():
            found[name].append(child(checkout, options))
    least = {name: round(min(times), 1) for name, times in found.items()}
    figures: dict[str, Any] = {"us_per_chain_step": least, "load": os.getloadavg()[0]}
    figures["chain_steps_per_s"] = {name: round(1e6 / us) for name, us in least.items()}
    if options.against:
        figures["ratio"] = round(least["against"] / least["ours"], 2)
    for name, us in least.items():
        print(f"{name:>8}: {us:8.1f} us of CPU time a chain and step, {1e6 / us:,.0f} a second on one core")
    line = json.dumps(figures)
    if options.save:
        (Path(__file__).parent / "results" / "driver.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
