"""The examples, judged through every engine as a user would name it: the same verdicts at temperature 0."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from genprm.prms.load import BUILT_IN_PATH
from tests.engines.conftest import VLLM_ENV, free_port, need_vllm

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.bubblewrap, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`vllm serve` with the built-in model."""
    need_vllm()
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(BUILT_IN_PATH)]
    command += ["--port", str(port), "--dtype", "float32", "--block-size", "32", "--enforce-eager"]
    process = subprocess.Popen(command, env=os.environ | VLLM_ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert process.poll() is None, "the server did not start"
            assert time.monotonic() < deadline, "the server took too long to start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def judged(out: Path, *options: str) -> dict[str, dict[str, object]]:
    command = [sys.executable, "-m", "genprm.cli.main", "verify", str(ROOT / "examples" / "solutions.jsonl")]
    command += ["--with-code", "--sandbox", "bubblewrap", "--temperature", "0", "--out", str(out), *options]
    done = subprocess.run(command, env=os.environ | VLLM_ENV, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return {row["id"]: row for row in rows}


def test_three_engines_give_the_same_verdicts(server: str, tmp_path: Path) -> None:
    plain = judged(tmp_path / "transformers", "--engine", "transformers")
    assert len(plain) == 12
    for name, options in {"vllm": ("--engine", "vllm"), "openai": ("--base-url", server)}.items():
        other = judged(tmp_path / name, *options)
        assert {key: row["verdicts"] for key, row in other.items()} == {
            key: row["verdicts"] for key, row in plain.items()
        }
        for key, row in other.items():
            assert row["scores"] == pytest.approx(plain[key]["scores"], abs=0.02)
