"""Optional dependencies: asked for before work starts, so that nothing ends in an ImportError half-way."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from importlib import metadata


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
        names = " and ".join(map(_distribution, missing))
        raise ExtraError(f"{what} needs {names}: pip install 'genprm[{extra}]'")


def install_line(module: str) -> str:
    """The command that installs a missing module: the smallest extra of this package that brings it, or the module."""
    name = _distribution(module.partition(".")[0])
    extras: dict[str, list[str]] = {}
    with contextlib.suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("genprm") or []:
            wanted, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"](\w+)['\"]", line)
            if wanted and extra:
                extras.setdefault(extra[1], []).append(_distribution(wanted[0].lower()))
    bringing = [extra for extra, brought in extras.items() if name in brought]
    if bringing:
        return f"pip install 'genprm[{min(bringing, key=lambda extra: len(extras[extra]))}]'"
    return f"pip install {name}"


def _distribution(module: str) -> str:
    return {"sklearn": "scikit-learn"}.get(module, module.replace("_", "-"))
