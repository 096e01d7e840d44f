"""`genprm verify` with the built-in model on the examples: each sandbox gives the right twelve verdicts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing

from .conftest import no_bubblewrap, ordinary_user, start_service
from .test_podman import copy_base, no_podman

EXAMPLES = ROOT / "examples" / "solutions.jsonl"
ISOLATION = """
import asyncio, sys
from genprm.sandbox import open_sandbox
async def main():
    async with open_sandbox(sys.argv[1], lanes=1) as box:
        print(box.isolation)
asyncio.run(main())
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def service_without_network(tmp_path: Path) -> Generator[str]:
    """A service in a network namespace of its own, without any interface that is up."""
    if reason := no_bubblewrap():
        missing(reason)
    if os.getuid() != 0 or not shutil.which("unshare"):
        missing("a network namespace needs root and unshare")
    path = tmp_path / "sandbox.sock"
    service = start_service(path, ["unshare", "--net"])
    try:
        assert os.readlink(f"/proc/{service.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        yield f"unix:{path}"
    finally:
        service.terminate()
        try:
            service.communicate(timeout=60)
        finally:
            service.kill()


def run(before: Sequence[str], *arguments: str, home: str) -> subprocess.CompletedProcess[str]:
    """Runs Python, which must succeed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": home}
    command = [*before, sys.executable, "-B", *arguments]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def verify(sandbox: str, before: Sequence[str] = ()) -> tuple[str, str]:
    """Judges the examples. Returns the backend that the run names, and what keeps sessions apart there."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        out = Path(folder, "run")
        run(before, "-m", "genprm.cli.main", "verify", str(EXAMPLES), "--with-code", "--sandbox", sandbox,
            "--out", str(out), home=folder)  # fmt: skip
        rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
        labels = {row["id"]: row["label"] for row in map(json.loads, EXAMPLES.read_text().splitlines())}
        assert len(labels) == 12
        assert {row["id"]: row["first_error"] for row in rows} == labels
        assert all(set(step["code"]) == {"ok"} for row in rows for step in row["steps"] if step["code"])
        assert sum(bool(step["code"]) for row in rows for step in row["steps"]) >= 30
        isolation = run(before, "-c", ISOLATION, sandbox, home=folder).stdout.strip()
        return json.loads((out / "run.json").read_text())["facts"]["sandbox"], isolation


@pytest.mark.docker
def test_in_docker() -> None:
    assert verify("docker") == ("docker", "users")


@pytest.mark.bubblewrap
def test_in_bubblewrap_run_by_root() -> None:
    if reason := no_bubblewrap():
        missing(reason)
    if os.getuid() != 0:
        missing("needs root")
    assert verify("bubblewrap") == ("bubblewrap", "users")


@pytest.mark.bubblewrap
def test_in_bubblewrap_run_by_an_ordinary_user() -> None:
    if reason := no_bubblewrap():
        missing(reason)
    assert verify("bubblewrap", ordinary_user()) == ("bubblewrap", "namespaces")


@pytest.mark.podman
def test_in_podman() -> None:
    if reason := no_podman():
        missing(reason)
    copy_base(["podman"], dict(os.environ))
    assert verify("podman") == ("podman", "users")


@pytest.mark.bubblewrap
def test_in_a_service_of_another_network_namespace(service_without_network: str) -> None:
    assert verify(service_without_network) == ("remote", "users")
