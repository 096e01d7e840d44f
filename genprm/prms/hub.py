"""Small files that come with a model, from its folder or from the Hub."""

from __future__ import annotations

import json
from pathlib import Path

from genprm.prms.base import PRMError


def find_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a model; None where it has none, or where none can be had.

    Args:
        model: a folder, or a model id.
        name: the file's.
        revision: the model's revision on the Hub.
    """
    if Path(model).is_dir():
        file = Path(model) / name
        return file if file.is_file() else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            model,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None
    return None if found is None else Path(found)


def read_config(model: str, revision: str | None = None) -> dict[str, object]:
    """A model's `config.json`; {} where there is none to be had.

    Raises:
        PRMError: it is no JSON object.
    """
    found = find_file(model, "config.json", revision)
    if found is None:
        return {}
    try:
        config = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PRMError(f"{found} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise PRMError(f"{found} holds no JSON object")
    return config
