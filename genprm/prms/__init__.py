"""Process reward models: one file a family, one `judge` for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm.prms.base import PRM, PRMError

if TYPE_CHECKING:
    from genprm.prms.load import load_prm

__all__ = ["PRM", "PRMError", "load_prm"]


def __getattr__(name: str) -> object:
    # Loading brings pydantic, the engines and the sandbox; the protocol alone needs none of them.
    if name == "load_prm":
        from genprm.prms.load import load_prm

        return load_prm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
