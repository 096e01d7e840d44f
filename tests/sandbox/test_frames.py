from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm.sandbox.guest import frames
from genprm.sandbox.guest.output import Output

# One lone surrogate is text; two that make a pair are another text once they have been JSON.
TEXT = st.text(st.characters(exclude_categories=("Cs",)) | st.just("\ud800"))
UNHURRIED = settings(deadline=None)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@UNHURRIED
@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_encoded_is_decoded(message: dict[str, object]) -> None:
    data = frames.encode(message)
    size = frames.length(data[:4], 1 << 30)
    assert size == len(data) - 4
    assert frames.decode(data[4:]) == message


@UNHURRIED
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(data: bytes) -> None:
    with contextlib.suppress(frames.FrameError):
        assert type(frames.decode(data)) is dict


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"1", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1,"a":1}', b'{"a":1', b"\xff{}", b'{"a":"\xc3\xa9"}',
     b"[" * 100_000, b'{"a":' * 50_000],
)  # fmt: skip
def test_malformed_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode(payload)


@pytest.mark.parametrize("size", [0, 1, 101, 1 << 31, (1 << 32) - 1])
def test_lengths_beyond_the_limit_are_refused(size: int) -> None:
    with pytest.raises(frames.FrameError, match="bytes"):
        frames.length(size.to_bytes(4, "big"), 100)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (frames.text, 1), (frames.text, None), (frames.integer, True), (frames.integer, -1), (frames.integer, 1.0),
        (frames.number, "1"), (frames.number, -0.5), (frames.number, 10**400), (frames.boolean, 1),
    ],
)  # fmt: skip
def test_fields_of_another_type_are_refused(read: object, value: object) -> None:
    with pytest.raises((frames.FrameError, OverflowError)):
        read({"field": value}, "field")  # type: ignore[operator]


def test_the_longest_reply_fits_its_limit() -> None:
    worst = {"stdout": "\0" * (64 << 10), "error": "\ud800" * 4200, "id": 1, "status": "output_limit"}
    assert len(frames.encode(worst)) <= frames.reply_limit(64) + frames.HEADER.size
    assert len(json.dumps(worst)) > 6 * (64 << 10)


@UNHURRIED
@given(st.lists(st.binary(max_size=300)), st.integers(1, 40).map(lambda n: 2 * n))
def test_output_keeps_head_and_tail_and_counts_the_rest(parts: list[bytes], kept: int) -> None:
    output = Output(kept)
    for part in parts:
        output.add(part)
    whole = b"".join(parts)
    text, cut = output.text()
    assert output.total == len(whole)
    assert cut == max(0, len(whole) - kept)
    if cut:
        head, tail = whole[: kept // 2].decode("utf-8", "replace"), whole[-(kept // 2) :].decode("utf-8", "replace")
        assert text == f"{head}\n... {cut} bytes cut ...\n{tail}"
    else:
        assert text == whole.decode("utf-8", "replace")
