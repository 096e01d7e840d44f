"""Optional dependencies: asked for before work starts, so that nothing ends in an ImportError half-way."""

from __future__ import annotations

import importlib.util


class ExtraError(RuntimeError):
    """A library is not installed; the message has the line that installs it."""


def need(extra: str, *modules: str, what: str) -> None:
    """Makes sure that libraries are installed.

    Args:
        extra: the extra of the package that brings them.
        *modules: their import names.
        what: what needs them, as the beginning of a sentence.

    Raises:
        ExtraError: one is missing.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join({"sklearn": "scikit-learn"}.get(name, name) for name in missing)
        raise ExtraError(f"{what} needs {names}: pip install 'genprm[{extra}]'")
