"""The deployment examples: manifests that Kubernetes' own schemas accept, and commands that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
MANIFESTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}")
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_follows_the_schema(manifest: dict[str, Any]) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_validator_finds_what_is_wrong() -> None:
    import kubernetes_validate

    policy = next(one.values[0] for one in MANIFESTS if one.values[0]["kind"] == "NetworkPolicy")
    wrong = {**policy, "spec": {**policy["spec"], "egres": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_manifests_confine_the_pod() -> None:
    kinds = {one.values[0]["kind"]: one.values[0] for one in MANIFESTS}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    assert pod["hostUsers"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["runtimeClassName"] == kinds["RuntimeClass"]["metadata"]["name"]
    assert kinds["NetworkPolicy"]["spec"]["egress"] == []
    assert "Egress" in kinds["NetworkPolicy"]["spec"]["policyTypes"]
    assert kinds["NetworkPolicy"]["spec"]["podSelector"] == kinds["Deployment"]["spec"]["selector"]


def commands() -> list[list[str]]:
    """Every genprm command line of the examples, as words."""
    found = []
    for one in MANIFESTS:
        for container in one.values[0].get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            found.append([*container["command"], *container["args"]])
    script = (DEPLOY / "slurm.sbatch").read_text(encoding="utf-8").replace("\\\n", " ")
    found += [match.split() for match in re.findall(r"^srun \S+ (genprm [^&\n]*)", script, re.M)]
    return found


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:3]))
def test_every_option_of_the_examples_exists(words: list[str]) -> None:
    import typer

    from genprm.cli.main import app

    command: Any = typer.main.get_command(app)
    for word in words[1:]:
        if not hasattr(command, "commands") or word not in command.commands:
            break
        command = command.commands[word]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_batch_script_is_one_that_bash_reads() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sbatch")], check=True)
