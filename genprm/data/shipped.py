"""Recipes and examples that come with the package, named `builtin:NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from genprm.data.inputs import InputError

PREFIX = "builtin:"
_PACKAGE = Path(__file__).resolve().parent.parent
_SUFFIXES = {"recipes": ".yaml", "examples": ".jsonl"}


def shipped(name: str, kind: Literal["recipes", "examples"]) -> str:
    """The path that a name stands for; any name without the prefix is left as it is.

    Args:
        name: `builtin:best-of-n`, or a path.
        kind: where to look.

    Raises:
        InputError: nothing of this name is shipped; the message lists what is.
    """
    if not name.startswith(PREFIX):
        return name
    suffix = _SUFFIXES[kind]
    found = {file.stem: file for file in sorted((_PACKAGE / kind).glob(f"*{suffix}"))}
    wanted = name.removeprefix(PREFIX).removesuffix(suffix)
    if wanted not in found:
        raise InputError(f"{name!r} is not shipped; there are {', '.join(PREFIX + one for one in found)}")
    return str(found[wanted])
