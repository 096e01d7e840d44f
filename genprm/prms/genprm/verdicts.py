"""Where a verdict's score is read in a turn: the tokens before the verdict, and the two that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from genprm.engines.stops import cut_at_stop
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError
from genprm.prms.calls import where_they_part
from genprm.types import Verdict

ENDING_TOKENS = 16
"""A verdict with at most so many tokens from its word on is found without decoding the whole turn."""
BROKEN = "\ufffd"
"""What a part of a character decodes to: a cut inside a character shows it on both sides."""

Pair = tuple[int, int]
"""The tokens of Yes and of No."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The first tokens of verdicts."""

    plain: Pair
    spaced: Pair | None
    """With a leading space; None if the tokenizer has no such tokens."""
    watch: tuple[int, ...] = field(init=False)
    """All of them, for `Sampling.watch`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "watch", tuple(dict.fromkeys((*self.plain, *(self.spaced or ())))))

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Answers:
        """Looks them up.

        Raises:
            PRMError: the tokenizer does not distinguish the two words.
        """
        yes, no = (tokenizer.encode(word)[-1] for word in Verdict)
        if yes == no:
            raise PRMError(f"the tokenizer of {tokenizer.name!r} does not tell 'Yes' from 'No' by their last token")
        lead, (spaced_yes, spaced_no) = where_they_part(*(tokenizer.encode(f" {word}") for word in Verdict))
        return cls((yes, no), None if lead else (spaced_yes, spaced_no))


@dataclass(frozen=True, slots=True)
class Question:
    """The query for a verdict's score: the probabilities of two tokens after some ids."""

    ids: tuple[int, ...]
    """Ids of the turn, from its first generated or forced token up to the verdict."""
    pair: Pair
    written: bool
    """Whether the turn's own ids start with `ids`, so that an engine that watched the pair has the answer."""


def question_at(tokenizer: Tokenizer, answers: Answers, ids: Sequence[int], before: str, after: str) -> Question:
    r"""The query for the score of a verdict.

    The model may have written the word and the spaces before it as one token (`\boxed{ Yes}`). Then the query is at the
    position before the spaces, about the words with their spaces: the model did not write the spaces separately.

    Args:
        tokenizer: decodes the ids.
        answers: its tokens of the verdicts.
        ids: of the turn.
        before: the text of these ids up to the verdict's word.
        after: the rest of their text, which begins with the word.

    Raises:
        EngineError: the tokenizer cannot encode the text.
    """
    if (end := _ending(tokenizer, ids, after)) is not None:
        return Question(tuple(ids[: len(ids) - end]), answers.plain, written=True)
    kept = _tokens_within(tokenizer, ids, len(before))
    head = tokenizer.decode(ids[:kept])
    if head == before:
        return Question(tuple(ids[:kept]), answers.plain, written=True)
    blanks = before[len(head) :]
    if before.startswith(head) and blanks.isspace():
        if blanks == " " and answers.spaced is not None:
            return Question(tuple(ids[:kept]), answers.spaced, written=True)
        lead, (yes, no) = where_they_part(*(tokenizer.encode(blanks + word) for word in Verdict))
        return Question((*ids[:kept], *lead), (yes, no), written=not lead)
    # The word starts inside a token: tokenise the text before it again.
    return Question(cut_at_stop(tokenizer, ids, (before,)).token_ids, answers.plain, written=False)


def _ending(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> int | None:
    """How many of the last ids decode to a text, if it is a few: a turn usually ends with its verdict."""
    for count in range(1, min(len(ids), ENDING_TOKENS) + 1):
        ending = tokenizer.decode(ids[-count:])
        if ending == text and BROKEN not in ending and count < len(ids):
            # Some tokenizers drop a blank at the beginning of what they decode: not so after another token.
            one, both = tokenizer.decode(ids[-count - 1 : -count]), tokenizer.decode(ids[-count - 1 :])
            return count if both == one + text else None
        if len(ending) >= len(text):
            return None
    return None


def _tokens_within(tokenizer: Tokenizer, ids: Sequence[int], length: int) -> int:
    """How many of the first ids decode to at most `length` characters.

    A verdict stands near the end of a long turn: it is looked for from there, in pieces that double.
    """
    whole = len(tokenizer.decode(ids))
    low, high, piece = 0, len(ids), 8
    while low < high:
        middle = max(low, high - piece)
        if middle == low or whole - len(tokenizer.decode(ids[middle:])) <= length:
            low = middle
            break
        high, piece = middle, 2 * piece
    while low < high:
        middle = (low + high + 1) // 2
        if whole - len(tokenizer.decode(ids[middle:])) <= length:
            low = middle
        else:
            high = middle - 1
    # A character that is split over tokens counts on both sides of a cut: the beginning itself decides.
    while low and len(tokenizer.decode(ids[:low])) > length:
        low -= 1
    while low < len(ids) and len(tokenizer.decode(ids[: low + 1])) <= length:
        low += 1
    return low
