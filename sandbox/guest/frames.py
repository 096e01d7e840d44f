"""Length-prefixed JSON, the only data that crosses the sandbox's boundary.

A frame is four bytes of length, big-endian, and that many bytes of JSON: one object. Both sides refuse a frame that
is too long, is not JSON, is not an object, or contains NaN, Infinity or a repeated key.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

HEADER = struct.Struct(">I")
MAX_REQUEST = 8 << 20
"""Fits a snippet of `MAX_CODE` bytes, all of them escaped."""
MAX_CODE = 1 << 20
"""Longest snippet in bytes of UTF-8. No model writes a mebibyte of checking code."""
MAX_ERROR = 4096
"""Longest error message in characters, each at most twelve bytes in JSON."""


class FrameError(ValueError):
    """The other side does not speak the protocol."""


def reply_limit(output_kb: int) -> int:
    """Longest reply frame: every byte of the output escaped as six, every character of the error as twelve."""
    return 6 * (output_kb << 10) + 12 * MAX_ERROR + (1 << 14)


def encodable(text: str) -> str:
    """The text with lone surrogates escaped, so that it can be encoded."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def clip(text: str, most: int = MAX_ERROR) -> str:
    """The text if it is short enough, else its beginning and the number of omitted characters."""
    if len(text) <= most:
        return text
    kept = most - 40
    return f"{text[:kept]}... ({len(text) - kept} more characters)"


def encode(message: Mapping[str, object]) -> bytes:
    """One frame. Lone surrogates travel as JSON escapes."""
    payload = json.dumps(message, allow_nan=False, separators=(",", ":")).encode("ascii")
    return HEADER.pack(len(payload)) + payload


def decode(payload: bytes) -> dict[str, object]:
    """The object in a frame's payload."""
    try:
        message = json.loads(
            payload.decode("ascii"), parse_constant=_refuse_constant, object_pairs_hook=_object_without_repeats
        )
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame is not JSON: {error}") from None
    if type(message) is not dict:
        raise FrameError(f"a frame is not an object: {message!r:.80}")
    return message


def length(header: bytes, limit: int) -> int:
    """The payload's length, checked against the limit."""
    (size,) = HEADER.unpack(header)
    if not 2 <= size <= limit:
        raise FrameError(f"a frame of {size} bytes exceeds the limit of {limit}")
    return size


def text(message: dict[str, object], key: str) -> str:
    """A string field."""
    value = message.get(key)
    if type(value) is not str:
        raise FrameError(f"field {key!r} is not a string: {value!r:.80}")
    return value


def integer(message: dict[str, object], key: str) -> int:
    """An integer field that is not negative."""
    value = message.get(key)
    if type(value) is not int or value < 0:
        raise FrameError(f"field {key!r} is not a count: {value!r:.80}")
    return value


def boolean(message: dict[str, object], key: str) -> bool:
    """A true or false field."""
    value = message.get(key)
    if type(value) is not bool:
        raise FrameError(f"field {key!r} is not true or false: {value!r:.80}")
    return value


def number(message: dict[str, object], key: str) -> float:
    """A number that is not negative."""
    value = message.get(key)
    if (type(value) is not float and type(value) is not int) or not 0 <= value < float("inf"):
        raise FrameError(f"field {key!r} is not a number: {value!r:.80}")
    return float(value)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def _object_without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result
