"""Seconds until genprm works: the examples from start to end, and the first request to a server.

`python benchmarks/start.py --save` runs `genprm verify` on the twelve examples with the built-in model, and then
against a server that refuses every request, which shows when the first one comes. Each is run several times; the first
run, which reads libraries from disk, does not count.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Refusing(http.server.BaseHTTPRequestHandler):
    """A model server that lists the built-in model, notes when it is first asked, and refuses."""

    first: float | None = None

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": [{"id": "nano", "max_model_len": 4096}]})

    def do_POST(self) -> None:
        Refusing.first = Refusing.first or time.perf_counter()
        self._answer(400, {"error": {"message": "no"}})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def verify(*options: str) -> tuple[float, float]:
    """When `genprm verify` was started, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "genprm", "verify", str(ROOT / "examples" / "solutions.jsonl"), "--with-code"]
        started = time.perf_counter()
        subprocess.run([*command, "--out", f"{out}/run", *options], capture_output=True, check=False)
        return started, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="How long genprm takes to start.")
    parser.add_argument("--sandbox", nargs="+", default=["docker", "bubblewrap"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/start.json")
    options = parser.parse_args()
    os.chdir(ROOT)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    figures: dict[str, Any] = {"load": round(os.getloadavg()[0], 2)}
    for sandbox in options.sandbox:
        examples, ready = [], []
        for _ in range(options.runs + 1):
            examples.append(verify("--sandbox", sandbox)[1])
            Refusing.first = None
            started, _ = verify("--sandbox", sandbox, "--model", "nano", "--base-url", url)
            if Refusing.first is None:
                raise RuntimeError("the server was not asked")
            ready.append(Refusing.first - started)
        figures[sandbox] = {
            name: {"median_s": round(statistics.median(times[1:]), 2), "slowest_s": round(max(times[1:]), 2)}
            for name, times in (("examples", examples), ("first_request", ready))
        }
        print(f"{sandbox:11} {figures[sandbox]}", flush=True)
    if options.save:
        (ROOT / "benchmarks" / "results" / "start.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
