"""Process reward models: one file a family, one `judge` for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm.lazy import names
from genprm.prms.base import PRM, PRMError

if TYPE_CHECKING:
    from genprm.prms.load import load_prm

__all__ = ["PRM", "PRMError", "load_prm"]


# Loading brings pydantic, the engines and the sandbox; the protocol alone needs none of them.
__getattr__ = names(__name__, {"load_prm": "genprm.prms.load"})
