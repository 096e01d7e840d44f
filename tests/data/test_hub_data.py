"""Data sets of the Hub where it cannot be reached: one probe, one sentence."""

import os
import subprocess
import sys
import time

from tests.conftest import ROOT


def genprm(*words, cwd):
    # Nothing listens there, so that the one probe fails at once.
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(cwd / "hub")}
    env.pop("HF_HUB_OFFLINE", None)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "genprm", *words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    return done, time.monotonic() - started


def test_a_data_set_that_is_not_there_is_one_sentence(tmp_path):
    for words in (("verify", "hf://Qwen/ProcessBench/math"), ("bench", "processbench")):
        done, seconds = genprm(*words, cwd=tmp_path)
        assert done.returncode == 2
        said = " ".join(done.stderr.split())
        assert "is not in the cache" in said
        assert "the Hub at http://127.0.0.1:9 cannot be reached" in said
        assert "hf download --repo-type dataset Qwen/ProcessBench" in said
        assert "Retrying" not in said
        assert "Traceback" not in said
        assert seconds < 120
        assert not (tmp_path / "runs").exists()
