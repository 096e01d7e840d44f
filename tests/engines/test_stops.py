"""Stop strings: where a text is cut, and which ids say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm.engines import Finish
from genprm.engines.stops import completion, cut_at_stop, stop_window
from genprm.engines.tokenizer import Tokenizer
from tests.engines.conftest import SENTENCES

VOCABULARY = 440
"""Ids below this are not control tokens."""


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(str(tiny_model))


# Ids as a model may sample them: any at all (half characters too), or those of real text.
any_ids = st.lists(st.integers(0, VOCABULARY - 2), max_size=30)
stops = st.lists(
    st.one_of(
        st.text("ab \n`</>x1é你", min_size=1, max_size=5),
        st.builds(
            lambda s, a, n: s[a : a + n] or "x", st.sampled_from(SENTENCES), st.integers(0, 60), st.integers(1, 9)
        ),
    ),
    max_size=4,
)


def shortest_stopped(text: str, stop: list[str]) -> str | None:
    """The contract, implemented slowly: character by character until a stop string appears."""
    return next((text[:n] for n in range(1, len(text) + 1) if any(text[:n].endswith(s) for s in stop)), None)


@given(ids=any_ids, stop=stops)
def test_ids_decode_exactly_to_the_text_up_to_the_first_stop_string(
    tokenizer: Tokenizer, ids: list[int], stop: list[str]
) -> None:
    check_cut(tokenizer, ids, stop)


@given(text=st.sampled_from(SENTENCES), other=st.text("ab é你\n", max_size=8), stop=stops)
def test_real_text_is_cut_like_that_too(tokenizer: Tokenizer, text: str, other: str, stop: list[str]) -> None:
    check_cut(tokenizer, tokenizer.encode(other + text), stop)


def check_cut(tokenizer: Tokenizer, ids: list[int], stop: list[str]) -> None:
    text = tokenizer.decode(ids)
    cut = cut_at_stop(tokenizer, ids, stop)
    assert tokenizer.decode(cut.token_ids) == cut.text
    expected = shortest_stopped(text, stop)
    if expected is None:
        assert (cut.text, cut.token_ids, cut.stop) == (text, tuple(ids), None)
    else:
        assert cut.text == expected
        assert cut.stop == max((s for s in stop if expected.endswith(s)), key=len)
        # Only the last piece is tokenised again.
        whole = max(n for n in range(len(ids) + 1) if expected.startswith(tokenizer.decode(ids[:n])))
        assert cut.token_ids[:whole] == tuple(ids[:whole])


@given(ids=any_ids, stop=stops)
def test_the_window_shows_every_stop_string_that_the_last_token_completes(
    tokenizer: Tokenizer, ids: list[int], stop: list[str]
) -> None:
    before, after = tokenizer.decode(ids[:-1]), tokenizer.decode(ids)
    new = [s for s in stop if s in after and s not in before]
    window = tokenizer.decode(ids[-stop_window(stop) :])
    assert all(s in window for s in new)


def test_a_completion_says_why_it_ended(tokenizer: Tokenizer) -> None:
    (eos,) = tokenizer.eos_ids
    ids = tokenizer.encode("48 clips in May.")
    by_stop = completion(tokenizer, ids, ["ps i"], ended=True)
    assert (by_stop.text, by_stop.finish, by_stop.stop) == ("48 clips i", Finish.STOP, "ps i")
    assert by_stop.sampled_tokens == len(ids)
    by_end = completion(tokenizer, [*ids, eos], ["never"], ended=True, cached_tokens=7)
    assert (by_end.token_ids, by_end.finish, by_end.stop) == (tuple(ids), Finish.EOS, None)
    assert (by_end.sampled_tokens, by_end.cached_tokens) == (len(ids) + 1, 7)
    assert completion(tokenizer, ids, [], ended=False).finish is Finish.LENGTH
