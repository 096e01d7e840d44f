"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """A package's `__getattr__`.

    Args:
        package: the package's `__name__`.
        homes: the module of each name.
    """

    def __getattr__(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(homes[name]), name)
        except AttributeError as error:
            # `from package import name` would turn it into "cannot import name", without the cause.
            raise ImportError(f"importing {homes[name]} failed: AttributeError: {error}") from error

    return __getattr__
