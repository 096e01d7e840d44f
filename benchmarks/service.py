"""Many clients at once, some of them hostile, against `genprm serve`: is every answer that of a direct judgement?

    python benchmarks/service.py [--clients 200] [--seconds 300] [--save]

The same word problems are judged by `genprm verify` first, which gives the answers to compare with and the rate. Then
come so many clients: most ask `/v1/score`, one in ten misbehaves (bodies that are not JSON, wrong types, too many
steps, clients that go away, connections that stop in the middle of a body or of a header). The built-in model judges
without running code. Honest clients do as `genprm.client` does: they tell the service their deadline, and get what is
judged by then. An answer is lost where the client gets none. Memory is sampled all along: its slope is a line fitted to
the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from genprm.data.word_problems import WordProblem, make_problems
from genprm.runs.folder import read_rows_of
from genprm.runs.rows import VerifyRow

HERE = Path(__file__).parent
PATIENCE_S, CLIENT_S = 110.0, 120.0
"""What a client gives the service, and when it gives up."""
ARRIVED_S = 0.5
"""A request sent this long before SIGTERM has arrived by then."""
BEFORE_END_S = 5.0
"""SIGTERM comes this long before the clients would stop by themselves, so that requests are under way."""
SAMPLES = 40
JUDGED = 'genprm_solutions_total{outcome="judged"}'
TOLERANCE = 2e-3
"""bf16 arithmetic depends a little on what is decoded together."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "genprm.cli.main", *arguments, "--mode", "analyze", "--sandbox", "bubblewrap"]


async def verify(problems: list[WordProblem], folder: Path) -> tuple[dict[str, list[float | None]], float]:
    """The scores of all problems, and judgements a second."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    rows = folder / "problems.jsonl"
    lines = [json.dumps({"problem": one.text, "steps": list(one.solution)}) for one in problems]
    await asyncio.to_thread(rows.write_text, "\n".join(lines) + "\n")
    out = str(folder / "verify")
    process = await asyncio.create_subprocess_exec(
        *command("verify", str(rows), "--out", out, "--clean"), stdout=PIPE, stderr=PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    metrics = json.loads(await asyncio.to_thread((folder / "verify" / "metrics.json").read_text))
    scores = {row.problem or "": row.scores for row in read_rows_of(Path(out), VerifyRow)}
    return scores, metrics["session"]["rows"] / metrics["session"]["seconds"]


class Load:
    """What the clients saw."""

    def __init__(self, url: str, problems: list[WordProblem], scores: dict[str, list[float | None]]) -> None:
        self.url = url
        self.problems = problems
        self.scores = scores
        self.statuses: Counter[int] = Counter()
        self.hostile: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.mixed_up = 0
        self.partial = 0
        self.lost: Counter[str] = Counter()
        self.terminated_at: float | None = None
        """When the service was told to end."""
        self.under_way: Counter[str] = Counter()
        """What became of the requests that it had then."""

    async def honest(self, number: int, until: float) -> None:
        rng = random.Random(number)
        async with httpx.AsyncClient(base_url=self.url, timeout=CLIENT_S) as http:
            while time.monotonic() < until and self.terminated_at is None:
                one = rng.choice(self.problems)
                body = {"problem": one.text, "steps": list(one.solution), "id": f"{number}", "seed": 0}
                body["timeout_s"] = PATIENCE_S
                started = time.monotonic()
                try:
                    response = await http.post("/v1/score", json=body)
                except httpx.HTTPError as error:
                    self._note_outcome(started, type(error).__name__)
                    self.lost[type(error).__name__] += self.terminated_at is None
                    continue
                self._note_outcome(started, str(response.status_code))
                self.statuses[response.status_code] += 1
                if response.status_code == 429:
                    await asyncio.sleep(float(response.headers["Retry-After"]) * rng.random())
                elif response.status_code == 200:
                    self.seconds.append(time.monotonic() - started)
                    row = response.json()
                    self.partial += not row["complete"]
                    self._check(one, f"{number}", row)

    def _note_outcome(self, sent: float, outcome: str) -> None:
        # One that was sent in the last moment may not have arrived.
        if self.terminated_at is not None and sent < self.terminated_at - ARRIVED_S:
            self.under_way[outcome] += 1

    def _check(self, one: WordProblem, identity: str, row: dict[str, Any]) -> None:
        wanted = self.scores[one.text]
        if not row["complete"]:
            # What is there must be what is wanted; the rest is null.
            wanted = [b if a is not None else None for a, b in zip(row["scores"], wanted, strict=False)]
        near = len(row["scores"]) == len(wanted) and all(
            a is b if a is None or b is None else abs(a - b) <= TOLERANCE
            for a, b in zip(row["scores"], wanted, strict=True)
        )
        self.mixed_up += not near or row["id"] != identity

    async def bad(self, number: int, until: float) -> None:
        rng = random.Random(number)
        async with httpx.AsyncClient(base_url=self.url, timeout=10) as http:
            while time.monotonic() < until and self.terminated_at is None:
                kind = rng.choice(["json", "type", "steps", "gone", "body", "header", "path"])
                try:
                    status = await self._attack(http, kind, rng.choice(self.problems))
                except (httpx.HTTPError, OSError) as error:
                    status = type(error).__name__
                self.hostile[f"{kind}: {status}"] += 1
                await asyncio.sleep(rng.random())

    async def _attack(self, http: httpx.AsyncClient, kind: str, one: WordProblem) -> object:
        json_header = {"Content-Type": "application/json"}
        match kind:
            case "json":
                return (await http.post("/v1/judge", content=b"{" * 5000, headers=json_header)).status_code
            case "type":
                return (await http.post("/v1/judge", json={"problem": 3, "steps": {"a": None}})).status_code
            case "steps":
                return (await http.post("/v1/judge", json={"problem": one.text, "steps": ["x"] * 1000})).status_code
            case "path":
                return (await http.get("/v1/runs/..%2f..%2fetc")).status_code
            case "gone":
                body = {"problem": one.text + " ", "steps": list(one.solution), "seed": random.randrange(1 << 30)}
                try:
                    return (await http.post("/v1/judge", json=body, timeout=0.3)).status_code
                except httpx.TimeoutException:
                    return "gone"
            case _:
                host, _, port = self.url.removeprefix("http://").partition(":")
                _, writer = await asyncio.open_connection(host, int(port))
                end = b"Content-Length: 100\r\n\r\n{" if kind == "body" else b"X-Half: "
                writer.write(b"POST /v1/judge HTTP/1.1\r\nHost: localhost\r\n" + end)
                await asyncio.sleep(0.5 if kind == "body" else 5)
                writer.close()
                return "closed"


def memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


async def metric(url: str, name: str) -> float:
    """The sum of a metric."""
    async with httpx.AsyncClient(timeout=60) as http:
        lines = (await http.get(f"{url}/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def watch(pid: int, every_s: float, samples: list[tuple[float, float]]) -> None:
    """Samples memory until it is cancelled: (second, MiB)."""
    started = time.monotonic()
    while True:
        samples.append((time.monotonic() - started, memory_mb(pid)))
        await asyncio.sleep(every_s)


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB a minute, of the line that fits the later half best."""
    half = samples[len(samples) // 2 :]
    seconds, memory = zip(*half, strict=True)
    return statistics.linear_regression(seconds, memory).slope * 60


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("runs/service"))
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()

    problems = make_problems(options.problems, seed=61_000, steps=(2, 3))
    scores, rate = await verify(problems, options.folder)
    print(f"genprm verify: {rate:.2f} judgements a second")
    process = await asyncio.create_subprocess_exec(*command("serve", "--port", "0"), stderr=PIPE)
    assert process.stderr is not None
    url = ""
    while not url:
        found = re.search(r"answers at (http://\S+)", (await process.stderr.readline()).decode())
        url = found[1] if found else ""
    drained = asyncio.create_task(process.stderr.read())
    load = Load(url, problems, scores)
    until = time.monotonic() + options.seconds
    clients = [load.bad(n, until) if n % 10 == 0 else load.honest(n, until) for n in range(options.clients)]
    work = asyncio.gather(*clients)
    samples: list[tuple[float, float]] = []
    watching = asyncio.create_task(watch(process.pid, options.seconds / SAMPLES, samples))
    await asyncio.sleep(options.seconds / 4)
    started, before, judged_before = time.monotonic(), len(load.seconds), await metric(url, JUDGED)
    await asyncio.sleep(options.seconds / 2)
    served, judged = len(load.seconds) - before, await metric(url, JUDGED) - judged_before
    took = time.monotonic() - started
    await asyncio.sleep(max(0.0, options.seconds / 4 - BEFORE_END_S))
    watching.cancel()
    shared = await metric(url, "genprm_shared_total")
    load.terminated_at = time.monotonic()
    process.terminate()
    await work
    code = await process.wait()
    await drained
    ranked = sorted(load.seconds)
    found = {
        "clients": options.clients,
        "seconds": options.seconds,
        "verify_per_s": round(rate, 2),
        "served_per_s": round(served / took, 2),
        "judged_per_s": round(judged / took, 2),
        "judged_to_verify": round(judged / took / rate, 3),
        "p50_s": round(ranked[len(ranked) // 2], 2),
        "p99_s": round(ranked[int(len(ranked) * 0.99)], 2),
        "answers": len(ranked),
        "shared": int(shared),
        "mixed_up": load.mixed_up,
        "partial": load.partial,
        "lost": dict(load.lost),
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "hostile": dict(sorted(load.hostile.items())),
        "memory_mb": [round(samples[len(samples) * n // 8][1]) for n in range(8)] + [round(samples[-1][1])],
        "memory_mb_per_minute": round(slope(samples), 1),
        "under_way_at_sigterm": dict(load.under_way),
        "exit_code": code,
    }
    for name, value in found.items():
        print(f"{name:14} {value}")
    if options.save:
        path = HERE / "results" / "service.json"
        await asyncio.to_thread(path.write_text, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
