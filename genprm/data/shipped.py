"""Recipes and examples included in the package, named `builtin:NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from genprm.data.inputs import InputError

PREFIX = "builtin:"
_PACKAGE = Path(__file__).resolve().parent.parent
_SUFFIXES = {"recipes": ".yaml", "examples": ".jsonl"}


def shipped(name: str, kind: Literal["recipes", "examples"]) -> str:
    """The path of a `builtin:` name; other names are returned unchanged.

    Args:
        name: `builtin:best-of-n`, or a path.
        kind: where to look.

    Raises:
        InputError: the package has nothing of this name; the message lists what it has.
    """
    if not name.startswith(PREFIX):
        return name
    suffix = _SUFFIXES[kind]
    found = {file.stem: file for file in sorted((_PACKAGE / kind).glob(f"*{suffix}"))}
    wanted = name.removeprefix(PREFIX).removesuffix(suffix)
    if wanted not in found:
        raise InputError(f"{name!r} is not in the package, which has {', '.join(PREFIX + one for one in found)}")
    return str(found[wanted])
