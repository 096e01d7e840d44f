"""Data sets of the Hub that cannot be reached, or may not be read: one probe, one sentence."""

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.conftest import ROOT


def genprm(*words, cwd, endpoint="http://127.0.0.1:9"):
    # Nothing listens at port 9, so that the one probe fails at once.
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, "HF_HOME": str(cwd / "hub")}
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


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for data sets that may not be read."""

    def do_GET(self):
        name = next((name for name in ("gated", "missing") if f"/{name}" in self.path), None)
        self.send_response({None: 200, "gated": 403, "missing": 404}[name])
        if name is not None:
            self.send_header("X-Error-Code", {"gated": "GatedRepo", "missing": "RepoNotFound"}[name])
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *args):
        pass


def test_a_data_set_that_may_not_be_read_says_where_to_ask(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        gated, _ = genprm("verify", "hf://org/gated/test", cwd=tmp_path, endpoint=endpoint)
        missing, _ = genprm("verify", "hf://org/missing/test", cwd=tmp_path, endpoint=endpoint)
    finally:
        server.shutdown()
        server.server_close()
    assert (gated.returncode, missing.returncode) == (2, 2)
    said = "".join(gated.stderr.split())
    assert f"'org/gated'isgated:acceptitslicenceat{endpoint}/datasets/org/gated,andsetHF_TOKEN" in said
    said = "".join(missing.stderr.split())
    assert "'org/missing'(split'test')doesnotload" in said
    assert f"{endpoint}/datasets/org/missing" in said
    for done in (gated, missing):
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
