"""Cuts generations at stop strings, with token ids that decode exactly to the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genprm.engines.base import Completion, Finish
from genprm.engines.errors import EngineError
from genprm.engines.tokenizer import Tokenizer

REPEATED_LEAST, REPEATED_MOST, REPEATED_TIMES = 16, 200, 6
"""Shortest and longest piece, in tokens, whose repetition ends a generation, and its number of repetitions."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A generation up to and including the first stop string in it."""

    text: str
    token_ids: tuple[int, ...]
    stop: str | None
    """None if no stop string occurs; then nothing was cut."""


def cut_at_stop(tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str]) -> Cut:
    """Cuts generated ids after the first stop string, so that they decode exactly to the text up to there.

    If the stop string ends inside a token, the tokens before it stay and the rest of the text is tokenised again. Of
    several stop strings, the one that ends first counts; of those that end together, the longest.

    Args:
        tokenizer: decodes the ids.
        ids: sampled ids, without an end-of-sequence token.
        stop: stop strings, none of them empty.

    Raises:
        EngineError: the tokenizer cannot encode the text.
    """
    text = tokenizer.decode(ids)
    found = [(start + len(string), -len(string), string) for string in stop if (start := text.find(string)) >= 0]
    if not found:
        return Cut(text, tuple(ids), None)
    end, _, string = min(found)
    return Cut(text[:end], shortened(tokenizer, ids, text[:end]), string)


def shortened(tokenizer: Tokenizer, ids: Sequence[int], wanted: str) -> tuple[int, ...]:
    """Ids that decode exactly to the beginning of a text: given ids as far as possible, then a re-tokenised piece.

    Args:
        tokenizer: decodes the ids.
        ids: the ids of the whole text.
        wanted: its beginning.

    Raises:
        EngineError: the tokenizer cannot encode it.
    """
    for kept in range(len(ids), -1, -1):
        head = tokenizer.decode(ids[:kept])
        if not wanted.startswith(head):
            continue
        tail = wanted[len(head) :]
        cut = (*ids[:kept], *(tokenizer.encode(tail) if tail else ()))
        # A character split over tokens, or a decoder that drops a leading space: keep one token less and retry.
        if tokenizer.decode(cut) == wanted:
            return cut
    raise EngineError(f"the tokenizer cannot encode the model's text: {wanted[-80:]!r}")


def completion(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    stop: Sequence[str],
    *,
    ended: bool,
    cached_tokens: int = 0,
    watched: Sequence[tuple[float, ...]] = (),
) -> Completion:
    """Makes a completion from sampled ids.

    Args:
        tokenizer: decodes the ids.
        ids: all sampled ids.
        stop: the requested stop strings.
        ended: whether the last id ended the model's turn; then it is not part of the text.
        cached_tokens: prompt tokens from the prefix cache.
        watched: a row for each of `ids`: see `Completion.watched`.
    """
    cut = cut_at_stop(tokenizer, ids[:-1] if ended else ids, stop)
    cut_off = Finish.REPEATED if repeats(ids) else Finish.LENGTH
    finish = Finish.STOP if cut.stop is not None else Finish.EOS if ended else cut_off
    rows = tuple(watched[: min(shared_start(cut.token_ids, ids) + 1, len(cut.token_ids))])
    return Completion(cut.text, cut.token_ids, finish, cut.stop, cached_tokens, rows, sampled_tokens=len(ids))


def repeats(ids: Sequence[int]) -> bool:
    """Whether ids end in the same piece of 16 to 200 ids, six times in a row.

    A model in such a loop continues it to the end of its context. Shorter loops also count once they are as long: a
    single token 96 times, which no table, matrix or line in a solution needs.
    """
    for size in range(REPEATED_LEAST, REPEATED_MOST + 1):
        span = size * (REPEATED_TIMES - 1)
        if span + size > len(ids):
            return False
        if ids[-1] == ids[-1 - size] and all(ids[-1 - k] == ids[-1 - k - size] for k in range(span)):
            return True
    return False


def shared_start(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix of two id sequences."""
    shared = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        shared += 1
    return shared


def stop_window(stop: Sequence[str]) -> int:
    """Number of last tokens to decode to see every stop string that the newest token may complete.

    A token has at least one byte; four more cover a character cut by the window's first token.
    """
    return max((len(string.encode()) for string in stop), default=0) + 4
