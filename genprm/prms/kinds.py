"""Which engine an open engine is, without importing any that is not there.

A client of remote servers needs no PyTorch and no vLLM: an engine can only be of a class whose module is loaded.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from genprm.engines.base import Engine

if TYPE_CHECKING:
    from genprm.engines.openai import OpenAIEngine
    from genprm.engines.transformers.engine import TransformersEngine
    from genprm.engines.vllm import VllmEngine


def transformers_engine(engine: Engine) -> TransformersEngine | None:
    """The engine, if it is a transformers engine."""
    return cast("TransformersEngine", engine) if _is(engine, "transformers.engine", "TransformersEngine") else None


def vllm_engine(engine: Engine) -> VllmEngine | None:
    """The engine, if it is a vLLM engine in this process."""
    return cast("VllmEngine", engine) if _is(engine, "vllm", "VllmEngine") else None


def openai_engine(engine: Engine) -> OpenAIEngine | None:
    """The engine, if it is a client of servers."""
    return cast("OpenAIEngine", engine) if _is(engine, "openai", "OpenAIEngine") else None


def _is(engine: Engine, module: str, name: str) -> bool:
    loaded: Any = sys.modules.get(f"genprm.engines.{module}")
    return loaded is not None and isinstance(engine, getattr(loaded, name))
