"""`genprm verify` with the built-in model on the examples: each sandbox gives the right twelve verdicts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from .conftest import REPOSITORY, missing, no_bubblewrap, ordinary_user
from .test_podman import copy_base, no_podman

EXAMPLES = REPOSITORY / "examples" / "solutions.jsonl"
GENPRM = [sys.executable, "-B", "-m", "genprm.cli.main"]

pytestmark = pytest.mark.slow


@pytest.fixture
def elsewhere() -> Generator[str]:
    """A service in a network namespace of its own, without any interface that is up."""
    if reason := no_bubblewrap():
        missing(reason)
    if os.getuid() != 0 or not shutil.which("unshare"):
        missing("a network namespace needs root and unshare")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sandbox.sock")
        command = [
            "unshare",
            "--net",
            *GENPRM,
            "sandbox",
            "serve",
            "--sandbox",
            "bubblewrap",
            "--socket",
            str(path),
            "--drain-s",
            "1",
        ]
        service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert service.stderr is not None
            while "answers at" not in (line := service.stderr.readline()):
                assert line, "the service has ended"
            assert os.readlink(f"/proc/{service.pid}/ns/net") != os.readlink("/proc/self/ns/net")
            yield f"unix:{path}"
        finally:
            service.terminate()
            try:
                service.communicate(timeout=60)
            finally:
                service.kill()


def verify(sandbox: str, before: list[str] | None = None) -> str:
    """Judges the examples; what the run says about its sandbox."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        out = Path(folder, "run")
        command = [
            *(before or []),
            *GENPRM,
            "verify",
            str(EXAMPLES),
            "--with-code",
            "--sandbox",
            sandbox,
            "--out",
            str(out),
        ]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HOME": folder}
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
        labels = {row["id"]: row["label"] for row in map(json.loads, EXAMPLES.read_text().splitlines())}
        assert len(labels) == 12
        assert {row["id"]: row["first_error"] for row in rows} == labels
        assert all(set(step["code"]) == {"ok"} for row in rows for step in row["steps"] if step["code"])
        assert sum(bool(step["code"]) for row in rows for step in row["steps"]) >= 30
        return (out / "run.json").read_text() + done.stderr


@pytest.mark.docker
def test_in_docker() -> None:
    verify("docker")


@pytest.mark.bubblewrap
def test_in_bubblewrap_run_by_root() -> None:
    if reason := no_bubblewrap():
        missing(reason)
    verify("bubblewrap")


@pytest.mark.bubblewrap
def test_in_bubblewrap_run_by_an_ordinary_user() -> None:
    if reason := no_bubblewrap():
        missing(reason)
    verify("bubblewrap", ordinary_user())


@pytest.mark.podman
def test_in_podman() -> None:
    if reason := no_podman():
        missing(reason)
    copy_base(["podman"], dict(os.environ))
    verify("podman")


@pytest.mark.bubblewrap
def test_in_a_service_of_another_network_namespace(elsewhere: str) -> None:
    verify(elsewhere)
