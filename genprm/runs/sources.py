"""What the files of an input are, wherever they lie and by whatever path they are named."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from genprm.data.records import HUB


def sources(files: Sequence[str | Path]) -> list[JsonValue]:
    """How `run.json` names input files: as the command did, with the hash of the content.

    A pipe, standard input and a data set of the Hub are known by their name alone.
    """
    return [_source(str(file)) for file in files]


def same_source(one: JsonValue, other: JsonValue) -> bool:
    """Whether two entries mean the same file: it lies in the same place, or has the same content.

    A file that has grown since is the same input: its new rows are judged, the others are there.
    """
    places, hashes = zip(_parts(one), _parts(other), strict=True)
    return places[0] == places[1] or (hashes[0] is not None and hashes[0] == hashes[1])


def place_of(entry: JsonValue) -> JsonValue:
    """The part of an entry that does not change when the file grows; any other value is left as it is."""
    return _parts(entry)[0] if isinstance(entry, dict) and "sha256" in entry else entry


def is_source(value: JsonValue) -> bool:
    """Whether a value of a configuration is a list of input files."""
    return isinstance(value, list) and any(isinstance(one, dict) and "sha256" in one for one in value)


def _source(file: str) -> JsonValue:
    path = Path(file)
    if file.startswith(HUB) or not path.is_file():
        return file
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    return {"file": file, "sha256": digest}


def _parts(entry: JsonValue) -> tuple[str, str | None]:
    """Where a file lies, and its hash where that is known."""
    found = cast("dict[str, str]", entry) if isinstance(entry, dict) else {"file": str(entry)}
    file = found["file"]
    return (file if file.startswith(HUB) else str(Path(file).resolve())), found.get("sha256")
