"""The product image, built from what this machine has, and the services of the compose file brought up with it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from genprm.client import Client
from tests.sandbox.conftest import missing
from tests.serve.test_compose import COMPOSE, DEPLOY, ENVIRONMENT

pytestmark = [pytest.mark.docker, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
IMAGE = "genprm-test:latest"
KEY = ENVIRONMENT["GENPRM_API_KEYS"]

BASE = "genprm-sandbox-base:bookworm"
PYTHON = f"""
FROM {BASE}
RUN apt-get update -q && apt-get install -q -y --no-install-recommends python3-pip python3-venv \\
    && ln -s /usr/bin/python3 /usr/bin/python && rm /usr/lib/python3*/EXTERNALLY-MANAGED
COPY wheels /usr/share/wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/usr/share/wheels
"""
"""In place of `python:3.12-slim`, which only a registry has; packages come from wheels that pip fetched here."""


def run(*command: str | Path, **more: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], env={**ENVIRONMENT, **more}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def build(folder: Path, *options: str) -> str:
    """Builds an image with the classic builder, which reaches the network as this machine does."""
    return run("docker", "build", "-q", "--network", "host", *options, folder, DOCKER_BUILDKIT="0").strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    if subprocess.run(["docker", "image", "inspect", BASE], capture_output=True, check=False).returncode:
        missing(f"there is no image {BASE} (scripts/build-sandbox-base)")
    context = tmp_path_factory.mktemp("python")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *extras["torch"],
        *extras["serve"],
    ]
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", "3.11",
         "-c", ROOT / "constraints.txt", "-d", context / "wheels", *wanted],
        capture_output=True, text=True, check=False)  # fmt: skip
    assert fetched.returncode == 0, fetched.stderr[-4000:]
    (context / "Dockerfile").write_text(PYTHON)
    python = build(context)
    shutil.rmtree(context)
    return build(ROOT, "-t", IMAGE, "--build-arg", f"PYTHON_IMAGE={python}", "--build-arg", "TORCH_INDEX=")


def compose(*words: str, port: int) -> str:
    files = ("--project-name", "genprm-test", "--file", str(DEPLOY / "compose.yaml"))
    return run(COMPOSE, *files, *words, GENPRM_IMAGE=IMAGE, GENPRM_PORT=str(port))


@pytest.fixture(scope="module")
def port(image: str) -> Iterator[int]:
    """The services, up; gives the port of the judging one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    try:
        compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "300", port=free)
        yield free
    finally:
        compose("down", "--volumes", "--timeout", "20", port=free)


def test_the_command_of_the_image(image: str) -> None:
    assert "verify" in run("docker", "run", "--rm", image)


def test_a_judgement_with_code_of_two_containers(port: int) -> None:
    with Client(f"http://127.0.0.1:{port}", api_key=KEY, timeout_s=120, raise_errors=True) as client:
        problem = "A box holds 12 pens. Tom buys 3 boxes and gives 6 pens away. How many pens does he keep?"
        found = client.judge(problem, ["He buys 3*12 = 36 pens.", "He keeps 36-6 = 32 pens."])
    assert found is not None
    assert found["first_error"] == 1
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30)
    assert b"<html" in page.read().lower()


def test_snippets_run_in_the_container_without_a_network(port: int) -> None:
    sandbox = compose("ps", "--quiet", "sandbox", port=port).strip()
    assert run("docker", "inspect", "--format", "{{.HostConfig.NetworkMode}}", sandbox).strip() == "none"
    metrics = run(
        "docker", "exec", sandbox, "python", "-c",
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/genprm/sandbox.sock');"
        " s.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())",
    )  # fmt: skip
    ran = re.search(r'genprm_sandbox_snippets_total\{.*status="ok".*\} (\S+)', metrics)
    assert ran is not None
    assert float(ran[1]) >= 2
