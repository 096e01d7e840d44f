"""Small files of a model, from its folder or the Hub."""

from __future__ import annotations

import json

from genprm.engines.hub import find_file
from genprm.prms.base import PRMError


def read_config(model: str, revision: str | None = None) -> dict[str, object]:
    """A model's `config.json`; {} when there is none.

    Raises:
        PRMError: it is not a JSON object.
    """
    found = find_file(model, "config.json", revision)
    if found is None:
        return {}
    try:
        config = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PRMError(f"{found} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise PRMError(f"{found} is not a JSON object")
    return config
