"""The product image, built from what this machine has, and the services of the compose file brought up with it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from genprm.client import Client
from tests.conftest import ROOT, free_port, missing
from tests.serve.test_compose import BUILT_IN, ENVIRONMENT, compose

# Without a cache, packages of some gigabytes are fetched and installed.
pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(3600)]
IMAGE, PYTHON_IMAGE = "genprm-test:latest", "genprm-test-python:latest"
LABEL = "genprm-test"
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


def build(folder: Path, tag: str, *options: str) -> None:
    """Builds an image with the classic builder, which reaches the network as this machine does."""
    how = ("-q", "--network", "host", "--label", LABEL, "--tag", tag)
    run("docker", "build", *how, *options, folder, DOCKER_BUILDKIT="0")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image. It stays, for its layers make the next run faster; those that it replaces are removed."""
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
    if fetched.returncode:
        missing(f"the packages cannot be fetched: {fetched.stderr[-500:]}")
    (context / "Dockerfile").write_text(PYTHON)
    try:
        build(context, PYTHON_IMAGE)
        shutil.rmtree(context)
        build(ROOT, IMAGE, "--build-arg", f"PYTHON_IMAGE={PYTHON_IMAGE}", "--build-arg", "TORCH_INDEX=")
        yield IMAGE
    finally:
        run("docker", "image", "prune", "--force", "--filter", f"label={LABEL}")


def services(*words: str, port: int) -> str:
    """What a command of Compose says."""
    project = ("--project-name", "genprm-test")
    done = compose(BUILT_IN, *project, *words, GENPRM_IMAGE=IMAGE, GENPRM_PORT=str(port))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def port(image: str) -> Iterator[int]:
    """The services, up; gives the port of the judging one."""
    free = free_port()
    try:
        services("up", "--detach", "--no-build", "--wait", "--wait-timeout", "300", port=free)
        yield free
    finally:
        services("down", "--volumes", "--timeout", "20", port=free)


def test_the_command_of_the_image(image: str) -> None:
    assert "verify" in run("docker", "run", "--rm", image)


def snippets_run(sandbox: str) -> float:
    """How many snippets the sandbox's container has run without an error."""
    metrics = run(
        "docker", "exec", sandbox, "python", "-c",
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/genprm/sandbox.sock');"
        " s.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())",
    )  # fmt: skip
    assert " 200 " in metrics.partition("\n")[0]
    ran = re.search(r'genprm_sandbox_snippets_total\{.*status="ok".*\} (\S+)', metrics)
    return float(ran[1]) if ran else 0.0


def test_two_containers_judge_with_code(port: int) -> None:
    sandbox = services("ps", "--quiet", "sandbox", port=port).strip()
    assert run("docker", "inspect", "--format", "{{.HostConfig.NetworkMode}}", sandbox).strip() == "none"
    before = snippets_run(sandbox)
    with Client(f"http://127.0.0.1:{port}", api_key=KEY, timeout_s=120, raise_errors=True) as client:
        problem = "A box holds 12 pens. Tom buys 3 boxes and gives 6 pens away. How many pens does he keep?"
        found = client.judge(problem, ["He buys 3*12 = 36 pens.", "He keeps 36-6 = 32 pens."])
    assert found is not None
    assert found["first_error"] == 1
    assert snippets_run(sandbox) >= before + 2
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
        assert b"<html" in page.read().lower()
