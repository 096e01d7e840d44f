"""One driver and many model servers, simulated: where does the driver end, and what does a server that dies cost?

The driver is the real one: GenPRM's protocol, admission, the client's engine with its router and retries, the run's
folder are not replaced. The servers are simulated, on a clock that jumps to the next event, so that 512 of them run
for hours in seconds: each decodes its requests side by side, a token of all of them every `base + each * active`
milliseconds, computes prompts at a rate, keeps the prefixes of the chains it saw last, and may die and come back.

What is the driver's own is its CPU time. Divided by the seconds that the servers needed, it is the share of a core that
the driver would have taken; at 1 the servers wait for the driver.

`python benchmarks/many_servers.py --servers 1 8 64 512 --save` prints a table and one JSON line, and draws
docs/many-servers.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import random
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.config import Keep, Mode
from genprm.data.inputs import InputRow
from genprm.engines import BUILT_IN, Completion, Sampling
from genprm.engines.http import NoAnswerError
from genprm.engines.openai import OpenAIEngine
from genprm.engines.routing import Router
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.genprm.judge import GenPRM
from genprm.runs.folder import open_run
from genprm.runs.verify import default_concurrency, verify
from genprm.sandbox import Result, Status

ANALYSIS_END, CODE_OUTPUT = "</analyze>\n", "[Code Output]"
TEXTS = (
    (
        "The step computes a sum of two numbers that the problem gives, and writes it as it is.</analyze>\n",
        ANALYSIS_END,
    ),
    ("\n```python\nclaimed = 24\nprint(claimed == 48 // 2)\n```\n", "\n```\n"),
    ("<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n", "</output>\n"),
)
SHARES = (0.45, 0.45, 0.10)
"""Of the tokens that a step costs, in analysis, code and verdict."""
CHAIN: ContextVar[str] = ContextVar("chain")


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is left to do."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # pyright: ignore[reportAttributeAccessIssue]
        if not self._ready and scheduled:
            # Rows are read by a thread, which wakes the loop by a socket: let it run before the clock jumps.
            time.sleep(0.00002)
            if not self._selector.select(0):  # pyright: ignore
                self.now = max(self.now, scheduled[0].when())
        super()._run_once()  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Model:
    """What a server costs."""

    base_s: float
    """A step of decoding, whatever is in it: the weights are read once."""
    each_s: float
    """More of it for each sequence: its keys and values."""
    prefill_per_s: float
    """Prompt tokens computed a second."""
    seqs: int
    """Sequences decoded at once."""
    cache_tokens: int
    step_tokens: float
    """Tokens that a judgement of a step costs, on average."""
    skew: float
    """Sigma of the log-normal lengths; 0 for equal ones."""


@dataclass(eq=False)
class SimulatedServer:
    """Stands where `genprm.engines.http.HttpServer` does."""

    base_url: str
    model: Model
    tokenizer: Tokenizer
    rng: random.Random
    known: dict[str, int]
    """Tokens of each chain that some server has computed."""
    up: bool = True
    active: list[tuple[float, int, asyncio.Future[None], float]] = field(default_factory=list)
    """A heap of requests by the work at which they are done; last, when each began."""
    waiting: list[tuple[float, asyncio.Future[None]]] = field(default_factory=list)
    cache: OrderedDict[str, int] = field(default_factory=OrderedDict)
    held: int = 0
    work: float = 0.0
    """Steps of decoding done so far."""
    since: float = 0.0
    timer: asyncio.TimerHandle | None = None
    busy: float = 0.0
    """Seconds of sequences decoded."""
    prompt: int = 0
    history: int = 0
    """Prompt tokens that this or another server had computed before."""
    cached: int = 0
    number: int = 0
    lost: float = 0.0
    """Seconds of sequences that ended with the server."""
    own: float = 0.0
    """CPU time of the simulation itself, which is not the driver's."""

    def _pace(self) -> float:
        return self.model.base_s + self.model.each_s * len(self.active)

    def _advance(self) -> None:
        now = asyncio.get_running_loop().time()
        if self.active:
            self.work += (now - self.since) / self._pace()
            self.busy += (now - self.since) * len(self.active)
        self.since = now

    def _plan(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.active:
            left = max(0.0, self.active[0][0] - self.work) * self._pace()
            self.timer = asyncio.get_running_loop().call_later(left, self._finish)

    def _finish(self) -> None:
        cpu = time.thread_time()
        self._advance()
        while self.active and self.active[0][0] <= self.work + 1e-6:
            future = heapq.heappop(self.active)[2]
            if not future.done():
                future.set_result(None)
        while self.waiting and len(self.active) < self.model.seqs:
            steps, future = self.waiting.pop(0)
            self._join(steps, future)
        self._plan()
        self.own += time.thread_time() - cpu

    def _join(self, steps: float, future: asyncio.Future[None]) -> None:
        self.number += 1
        heapq.heappush(self.active, (self.work + steps, self.number, future, self.since))

    def die(self) -> None:
        """Ends all that is in flight, and forgets all prefixes."""
        self._advance()
        self.up = False
        self.lost += sum(self.since - began for _, _, _, began in self.active)
        for future in [one[2] for one in self.active] + [one[1] for one in self.waiting]:
            if not future.done():
                future.set_exception(NoAnswerError("Connection error: the server died"))
        self.active, self.waiting, self.held = [], [], 0
        self.cache.clear()
        self._plan()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Answers a request for a completion when its time has come."""
        if not self.up:
            raise NoAnswerError("Connection error: refused")
        json.dumps(body, separators=(",", ":"))  # what the client does for a real one
        cpu = time.thread_time()
        chain, prompt = CHAIN.get(), body["prompt"]
        before = self.known.get(chain, 0)
        kept = self.cache.pop(chain, 0)
        self.held -= kept
        cached = min(kept, len(prompt))
        self.prompt, self.history, self.cached = self.prompt + len(prompt), self.history + before, self.cached + cached
        kind = 0 if body["stop"] == [ANALYSIS_END] else self._after_code(prompt)
        text, stop = TEXTS[kind]
        mean = self.model.step_tokens * SHARES[kind]
        tokens = mean * self.rng.lognormvariate(-(self.model.skew**2) / 2, self.model.skew)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Computing a prompt holds up the others as well; here it counts as work of its own request.
        steps = tokens + (len(prompt) - cached) / self.model.prefill_per_s / self.model.base_s
        self._advance()
        if len(self.active) < self.model.seqs:
            self._join(steps, future)
        else:
            self.waiting.append((steps, future))
        self._plan()
        self.own += time.thread_time() - cpu
        await future
        cpu = time.thread_time()
        ids = self.tokenizer.encode(text)
        self._remember(chain, len(prompt) + len(ids))
        watch = body.get("logprob_token_ids", ())
        top = [{f"token_id:{token}": -0.1 for token in watch}] * len(ids)
        choice = {"text": text, "token_ids": ids, "finish_reason": "stop", "stop_reason": stop}
        usage = {"prompt_tokens_details": {"cached_tokens": cached}}
        self.own += time.thread_time() - cpu
        return {"choices": [choice | ({"logprobs": {"top_logprobs": top}} if watch else {})], "usage": usage}

    def _after_code(self, prompt: Sequence[int]) -> int:
        return 2 if CODE_OUTPUT in self.tokenizer.decode(prompt[-40:]) else 1

    def _remember(self, chain: str, length: int) -> None:
        self.known[chain] = length
        self.cache[chain] = length
        self.held += length
        while self.held > self.model.cache_tokens and len(self.cache) > 1:
            _, dropped = self.cache.popitem(last=False)
            self.held -= dropped


class Client(OpenAIEngine):
    """The client's engine, which lets a simulated server know the chain: a real one finds the prefix by its tokens."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        CHAIN.set(str(chain))
        return await super().generate(prompt_ids, sampling, chain=chain)


class Session:
    """Nothing to close."""

    async def close(self) -> None:
        """Nothing."""


class Box:
    """A sandbox in which every snippet takes so long."""

    backend, note = "simulated", None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Box]:
        yield self

    async def run(self, source: str) -> Result:
        await asyncio.sleep(self.seconds)
        return Result(Status.OK, "True\n", None, self.seconds, 0)


async def simulate(servers: int, model: Model, rows: int, steps: int, deaths: int, away_s: float) -> dict[str, Any]:
    """Judges so many rows on so many servers; `deaths` of them die once each, and come back."""
    loop = asyncio.get_running_loop()
    tokenizer, known = Tokenizer.from_pretrained(str(BUILT_IN["nano"])), dict[str, int]()
    several: Any = [
        SimulatedServer(f"http://{n}/v1", model, tokenizer, random.Random(n), known) for n in range(servers)
    ]
    session: Any = Session()
    engine = Client(
        several, session, tokenizer, model_name="simulated", max_model_len=32768, max_num_seqs=model.seqs,
        cache_tokens=model.cache_tokens, patience_s=3600.0,
    )  # fmt: skip
    engine.router = Router(engine.router.servers, clock=loop.time)
    box: Any = Box(0.03)
    prm = GenPRM(engine, box, mode=Mode.EXECUTE)
    texts = tuple(f"In month {step} she sold {step}*2 = {2 * step} clips." for step in range(steps))
    items = (InputRow(f"{n:016x}", "simulated", n, f"What is {n} + 1?", texts) for n in range(rows))
    tenths: list[float] = []

    def note(progress: Any) -> None:
        if progress.judged * 10 // rows > len(tenths):
            tenths.append(loop.time())

    async def mortality() -> None:
        rng = random.Random(1)
        # In the first half of the work, one after the other.
        for one in rng.sample(several, deaths):
            await asyncio.sleep(expected / 2 / max(1, deaths))
            one.die()
            loop.call_later(away_s, setattr, one, "up", True)

    pace = model.base_s + model.each_s * model.seqs
    expected = rows * steps * model.step_tokens * pace / (servers * model.seqs)
    dying = asyncio.create_task(mortality())
    cpu = time.thread_time()
    with tempfile.TemporaryDirectory() as name, open_run(Path(name) / "run", command="verify", config={}) as run:
        progress = await verify(
            items, prm, run, keep=Keep.SCORES, on_progress=note, concurrency=default_concurrency(prm.capacity, 1)
        )
    cpu = time.thread_time() - cpu - sum(one.own for one in several)
    dying.cancel()
    assert (progress.judged, progress.failed) == (rows, 0), "a row was lost, or judged twice"
    # The last tenth leaves servers empty one by one, whoever drives them: it says nothing about the driver.
    seconds, steady = loop.time(), tenths[8]
    history = sum(one.history for one in several)
    return {
        "rows": rows,
        "hours": round(seconds / 3600, 3),
        "steps_per_s": round(0.9 * rows * steps / steady, 1),
        "idle": round(1 - sum(one.busy for one in several) / (seconds * servers * model.seqs), 3),
        "cache_hits": round(sum(one.cached for one in several) / history, 4) if history else None,
        "driver_us_per_step": round(cpu / (rows * steps) * 1e6, 1),
        "driver_core": round(cpu / seconds, 4),
        "seconds": seconds,
        "lost_s": round(sum(one.lost for one in several) / model.seqs / max(1, deaths), 1),
    }


def on_jumping_clock(work: Any) -> dict[str, Any]:
    """Runs a simulation on an event loop of its own."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


def draw(figures: dict[str, Any], path: Path) -> None:
    """The driver's share of a core, and the rate, over the number of servers."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    counts = [int(count) for count in figures["servers"]]
    picture, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.loglog(counts, [one["driver_core"] for one in figures["servers"].values()], "o-")
    left.axhline(1.0, color="gray", linestyle="--", label="one core")
    left.set(xlabel="servers", ylabel="share of a core that the driver takes")
    left.legend()
    right.loglog(counts, [one["steps_per_s"] for one in figures["servers"].values()], "o-")
    right.set(xlabel="servers", ylabel="judged steps a second")
    picture.savefig(path, metadata={"Date": None})


def main() -> None:
    """Simulates, prints, draws, saves."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seqs", type=int, default=32, help="sequences that a server decodes at once")
    parser.add_argument("--base-ms", type=float, default=7.7, help="a step of decoding: the weights")
    parser.add_argument("--each-ms", type=float, default=0.058, help="more for each sequence")
    parser.add_argument("--prefill", type=float, default=10_000, help="prompt tokens computed a second")
    parser.add_argument("--cache", type=int, default=200_000, help="tokens in a server's cache")
    parser.add_argument("--tokens", type=float, default=420, help="tokens that a judgement of a step costs")
    parser.add_argument("--skew", type=float, default=0.8, help="sigma of the log-normal lengths")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--waves", type=float, default=3.0, help="solutions for each that is in flight")
    parser.add_argument("--away", type=float, default=60.0, help="seconds that a server which dies is away")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/many_servers.json and the plot")
    options = parser.parse_args()
    model = Model(
        options.base_ms / 1e3, options.each_ms / 1e3, options.prefill, options.seqs, options.cache, options.tokens,
        options.skew,
    )  # fmt: skip
    figures: dict[str, Any] = {"servers": {}, "model": vars(model), "load": os.getloadavg()[0]}
    names = ("rows", "hours", "steps_per_s", "idle", "cache_hits", "driver_us_per_step", "driver_core", "lost_s")
    print(f"{'servers':>8}", *(f"{name:>18}" for name in names))
    for servers in options.servers:
        rows = int(options.waves * 2 * options.seqs * servers)
        found = on_jumping_clock(simulate(servers, model, rows, options.steps, 0, 0.0))
        if servers > 1:
            deaths = max(1, servers // 8)
            dying = on_jumping_clock(simulate(servers, model, rows, options.steps, deaths, options.away))
            # Of one server, for each death: what was in flight there is computed again elsewhere.
            found["lost_s"] = dying["lost_s"]
            found["with_deaths"] = {name: dying[name] for name in ("hours", "idle", "cache_hits")} | {"deaths": deaths}
        found.pop("seconds")
        figures["servers"][str(servers)] = found
        print(f"{servers:>8}", *(f"{found.get(name)!s:>18}" for name in names), flush=True)
    last = max(figures["servers"], key=int)
    figures["servers_of_one_driver"] = round(int(last) / figures["servers"][last]["driver_core"])
    print(f"one driver's core is full at about {figures['servers_of_one_driver']:,} such servers")
    line = json.dumps(figures)
    if options.save:
        (Path(__file__).parent / "results" / "many_servers.json").write_text(line + "\n", encoding="utf-8")
        draw(figures, Path(__file__).parents[1] / "docs" / "many-servers.svg")
    print(line)


if __name__ == "__main__":
    main()
