"""Choosing an engine, and what is said when it is not there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import genprm.engines
from genprm.engines import EngineError, load_engine
from genprm.engines.transformers.engine import TransformersEngine


async def test_auto_takes_transformers_without_a_gpu(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genprm.engines, "_has_cuda", lambda: False)
    engine = await load_engine("auto", str(tiny_model), max_num_seqs=4)
    assert isinstance(engine, TransformersEngine)
    await engine.close()


async def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else found(name, *rest))
    with pytest.raises(EngineError, match=r"pip install 'genprm\[vllm\]'"):
        await load_engine("vllm", "m")


async def test_what_makes_no_sense_is_refused() -> None:
    odd: Any = "llama.cpp"
    for kind, model, urls, problem in (
        (odd, "m", (), "no engine 'llama.cpp'"),
        ("transformers", None, (), "needs a model"),
        ("vllm", "m", ("http://x/v1",), "takes no base URL"),
    ):
        with pytest.raises(EngineError, match=problem):
            await load_engine(kind, model, base_urls=urls)


def test_importing_the_engines_loads_nothing_heavy() -> None:
    check = "import sys, genprm.engines; print({'torch', 'transformers', 'aiohttp', 'vllm'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.slow
def test_scikit_learn_is_loaded_by_those_who_call_it_alone() -> None:
    pytest.importorskip("sklearn")
    check = """
import sys
from genprm.engines.transformers.lean import import_lean
import_lean()
import transformers.generation.candidate_generator as used
import transformers.utils
assert not {"sklearn", "pandas"} & set(sys.modules), "loaded at the start"
assert used.is_sklearn_available() and transformers.utils.is_sklearn_available()
print(*used.roc_curve([0, 1], [0.2, 0.8])[1])
"""
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["0.0", "1.0", "1.0"]
