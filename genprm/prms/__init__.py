"""Process reward models: one module or package per family, all with the same `judge`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm.lazy import names
from genprm.prms.base import PRM, PRMError

if TYPE_CHECKING:
    from genprm.prms.load import load_prm

__all__ = ["PRM", "PRMError", "load_prm"]


# `load` imports pydantic, the engines and the sandbox; the protocol needs none of them.
__getattr__ = names(__name__, {"load_prm": "genprm.prms.load"})
