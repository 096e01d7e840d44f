"""Environments with the released frameworks. Versions are fixed, so that a new release breaks nothing here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

PROGRAMS = ROOT / "tests" / "serve" / "frameworks"
EXAMPLES = ROOT / "examples" / "rl"
UV = Path(sys.executable).parent / "uv"

EVALUATORS = ("verifiers==0.4.0", "inspect-ai==0.3.285", "latex2sympy2-extended==1.11.0")
"""They need an environment of their own: an older openai than vLLM's. The last is for Inspect's scorer `math`."""
TRAINERS = ("verl==0.9.1", "openrlhf==0.11.2", "areal==1.0.4", "skyrl==0.3.0", "nemo-gym==0.7.0")
"""They fix versions of torch and vLLM that this environment has not. Their code for rewards runs with its versions."""
NEEDED = (
    *("tensordict==0.15.3", "pyvers==0.2.3", "codetiming==1.4.0", "dill==0.4.1", "torchdata==0.11.0"),
    *("omegaconf==2.4.0", "hydra-core==1.3.8", "antlr4-python3-runtime==4.9.3", "pylatexenc==2.11"),
    *("colorlog==6.12.0", "tenacity==9.2.1", "flask==3.1.3", "blinker==1.9.0", "itsdangerous==2.2.0"),
    *("aiofiles==25.1.0", "yappi==1.7.6", "pydot==4.0.1", "wandb==0.31.0"),
)
"""What the trainers' code for rewards imports and this environment has not."""


def evaluators() -> Path:
    """An environment of its own, made once and kept in the user's cache.

    Returns:
        Its Python.
    """

    def make(folder: Path) -> None:
        _uv("venv", "-q", "--clear", "-p", sys.executable, folder)
        _uv("pip", "install", "-q", "-p", folder / "bin" / "python", *EVALUATORS)

    return _kept("evaluators", make, EVALUATORS) / "bin" / "python"


def trainers() -> str:
    """Folders with the trainers' code, for PYTHONPATH, made once and kept in the user's cache."""

    def make(folder: Path) -> None:
        to = ("pip", "install", "-q", "--no-deps", "--target")
        # NeMo Gym asks for a newer Python, but the code that is called here does not need one. It has a folder of its
        # own, because it moves the one that it lies in to the end of the search path.
        _uv(*to, folder / "gym", "--python-version", "3.14", "--only-binary", "nemo-gym", TRAINERS[-1])
        _uv(*to, folder, "-p", sys.executable, *TRAINERS[:-1], *NEEDED)

    folder = _kept("trainers", make, (*TRAINERS, *NEEDED))
    return os.pathsep.join(map(str, (folder, folder / "skyrl-gym", folder / "gym")))


def install_alone(wheel: Path, folder: Path) -> None:
    """Installs genprm without its dependencies, as the documentation says for these environments."""
    _uv("pip", "install", "-q", "--no-deps", "--target", folder, "-p", sys.executable, wheel)


def _kept(name: str, make: Callable[[Path], None], packages: Sequence[str]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genprm-tests"
    key = hashlib.sha256("\n".join((sys.version, *packages)).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{key}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
        make(folder)
        (folder / "complete").touch()
    return folder


def _uv(*arguments: str | Path) -> None:
    # Compiling every module takes longer than these tests need to import theirs.
    plain = {**os.environ, "UV_COMPILE_BYTECODE": "0"}
    done = subprocess.run([UV, *arguments], capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 0, done.stderr[-4000:]


async def run(*command: str | Path, given: Any = None, cwd: Path | None = None, **environ: str) -> str:
    """Runs a program of an environment; what it prints."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **environ},
    )
    out, err = await process.communicate(None if given is None else json.dumps(given).encode())
    assert process.returncode == 0, (out + err).decode()[-4000:]
    return out.decode()
