"""The lifetime of vLLM's own process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engines.conftest import VLLM_ENV, need_vllm

LOADS = """
import asyncio, sys
from genprm.engines import load_engine

async def main():
    engine = await load_engine("vllm", sys.argv[1], max_model_len=256)
    print("loaded", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def engines_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"EngineCore" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_it_ends_when_the_process_that_loaded_it_is_killed(tiny_model: Path, tmp_path: Path) -> None:
    need_vllm()
    script = tmp_path / "loads.py"
    script.write_text(LOADS)
    command = [sys.executable, str(script), str(tiny_model)]
    with (tmp_path / "log.txt").open("w") as log:
        owner = subprocess.Popen(command, env=os.environ | VLLM_ENV, stdout=subprocess.PIPE, stderr=log, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        line = next((line for line in owner.stdout if line == "loaded\n"), None)
        assert line is not None, (tmp_path / "log.txt").read_text()[-4000:]
        (engine,) = engines_of(owner.pid)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    end = time.monotonic() + 10
    while Path(f"/proc/{engine}").exists():
        assert time.monotonic() < end, "vLLM's process goes on"
        time.sleep(0.05)
