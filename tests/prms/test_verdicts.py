"""A verdict's score is read from the generation that wrote it, or by a separate request, with equal results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm.config import Mode
from genprm.engines.base import Completion, Sampling
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.tokenizer_files import TokenizerFiles
from genprm.prms.genprm import verdicts
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.genprm.protocol import RELEASED
from genprm.prms.genprm.verdicts import Answers, _tokens_within, question_at
from genprm.sandbox import Sandbox
from genprm.types import Chain, Verdict
from tests.fakes import ScriptedEngine, byte_tokenizer

ANALYSIS = "It adds.\n</analyze>\n"
BOX = "**Judgement**: $\\boxed"
TOKENIZER = byte_tokenizer()


def logprob(ids: Sequence[int], token: int) -> float:
    """Of a model whose every answer depends on all that it has read."""
    return -1.0 - (hash((*ids, token)) % 10_007) / 1_000


@dataclass
class Model(ScriptedEngine):
    """Writes given text, and has probabilities for every next token."""

    watches: bool = True
    asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        done = await super().generate(prompt_ids, sampling, chain=chain)
        if not self.watches or not sampling.watch:
            return done
        rows = [
            tuple(logprob((*prompt_ids, *done.token_ids[:place]), token) for token in sampling.watch)
            for place in range(len(done.token_ids))
        ]
        return replace(done, watched=tuple(rows))

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        self.asked.append((tuple(prompt_ids), tuple(choices)))
        return [logprob(prompt_ids, choice) for choice in choices]


async def chain_of(replies: Sequence[str], mode: Mode, *, watches: bool, box: Sandbox | None) -> tuple[Chain, Model]:
    engine = Model.of(*replies)
    engine.watches = watches
    judgement = await GenPRM(engine, box, mode=mode, profile=RELEASED).judge("What is 2+2?", ["2+2 = 4"])
    (chain,) = judgement.steps[0].chains
    return chain, engine


CODE = "print(2 + 2)\n```\n"


@pytest.mark.bubblewrap
@pytest.mark.parametrize(
    ("mode", "replies"),
    [
        (Mode.ANALYZE, [ANALYSIS, "{Yes}$\n</output>\n"]),
        (Mode.ANALYZE, [ANALYSIS, "{ No}$\n</output>\n"]),
        (Mode.ANALYZE, [ANALYSIS, "{Yes}$\n<eos>"]),
        (Mode.DIRECT, ["{\\text{ Yes}}$\n</output>\n"]),
        (Mode.EXECUTE, [ANALYSIS, CODE, f"Good.\n</verify>\n<output>\n{BOX}{{No}}$\n</output>\n"]),
        # Of several verdicts the last one counts.
        (Mode.EXECUTE, [ANALYSIS, CODE, f"<output>\n{BOX}{{No}}$ or {BOX}{{ Yes}}$\n</output>\n"]),
        # The text continues after the stop string.
        (Mode.CODE, [ANALYSIS, f"1\n```\n<output>\n{BOX}{{Yes}}$\n</output>\n{BOX}{{No}}$"]),
    ],
    ids=["free", "spaced", "end of turn", "spaced text", "after code", "several", "cut"],
)
async def test_the_watched_score_is_the_asked_one(mode: Mode, replies: list[str], box: Sandbox) -> None:
    asked, slow = await chain_of(replies, mode, watches=False, box=box)
    watched, quick = await chain_of(replies, mode, watches=True, box=box)
    assert asked.score is not None
    assert (watched.score, watched.log_odds, watched.verdict) == (asked.score, asked.log_odds, asked.verdict)
    assert (len(slow.asked), len(quick.asked)) == (1, 0)
    assert watched.tokens.requests == len(replies) == asked.tokens.requests - 1


async def test_a_forced_verdict_is_watched_too() -> None:
    replies = [ANALYSIS, "Hm.<eos>", "{No}$\n</output>\n"]
    asked, _ = await chain_of(replies, Mode.ANALYZE, watches=False, box=None)
    watched, quick = await chain_of(replies, Mode.ANALYZE, watches=True, box=None)
    assert (watched.score, watched.verdict) == (asked.score, Verdict.NO)
    assert not quick.asked


@pytest.mark.bubblewrap
async def test_auto_asks_once(box: Sandbox) -> None:
    chain, engine = await chain_of(
        [ANALYSIS, CODE, f"<output>\n{BOX}{{Yes}}$\n</output>\n"], Mode.AUTO, watches=True, box=box
    )
    assert chain.score is not None
    # Whether the step needs code.
    assert len(engine.asked) == 1
    assert chain.tokens.requests == 4


async def test_a_verdict_with_a_blank_before_it_is_scored_as_it_was_written() -> None:
    chain, engine = await chain_of([ANALYSIS, "{ Yes}$\n</output>\n"], Mode.ANALYZE, watches=False, box=None)
    (ids, choices), *_ = engine.asked
    assert TOKENIZER.decode(ids).endswith("$\\boxed{")
    assert [TOKENIZER.decode([token]) for token in choices] == [" Yes", " No"]
    yes, no = (logprob(ids, token) for token in choices)
    assert chain.log_odds == yes - no


@given(before=st.text("ab{ \n", max_size=8), blanks=st.sampled_from(["", " ", "\n", "  ", " \n "]))
def test_the_question_is_asked_where_the_answer_was_written(before: str, blanks: str) -> None:
    answers = Answers.of(TOKENIZER)
    text = f"{before}{{{blanks}"
    ids = TOKENIZER.encode(f"{text}Yes}}$")
    question = question_at(TOKENIZER, answers, ids, text, "Yes}$")
    # Prompt and answer together are what the model wrote.
    whole = TOKENIZER.decode([*question.ids, question.pair[0]])
    assert whole == f"{text}Yes"
    assert question.written == (
        list(question.ids) == ids[: len(question.ids)] and ids[len(question.ids)] in question.pair
    )


def test_a_word_inside_a_token_is_asked_for_anew() -> None:
    tokenizer = byte_tokenizer(("Yes", "No", " Yes", " No", "{Yes"))
    question = question_at(tokenizer, Answers.of(tokenizer), tokenizer.encode("$\\boxed{Yes}"), "$\\boxed{", "Yes}")
    assert not question.written
    assert tokenizer.decode(question.ids) == "$\\boxed{"


@settings(deadline=None)
@given(st.text(alphabet="ab \n\u20ac\U0001f600Yes", max_size=60), st.data())
def test_tokens_within_a_length_are_those_that_a_look_at_each_finds(text: str, data: st.DataObject) -> None:
    ids = TOKENIZER.encode(text)
    length = data.draw(st.integers(0, len(text) + 1))
    fitting = [count for count in range(len(ids) + 1) if len(TOKENIZER.decode(ids[:count])) <= length]
    assert _tokens_within(TOKENIZER, ids, length) == fitting[-1]


def blank_dropping() -> Tokenizer:
    """A tokenizer that joins a blank and the word after it, and drops a blank at the beginning of what it decodes."""
    words = ("Yes", "No", "so", "{", "}", "$")
    pieces = ["\u2581", *words, *(f"\u2581{word}" for word in words)]
    scores = [
        ("<unk>", -20.0),
        *((f"<0x{byte:02X}>", -9.0) for byte in range(256)),
        *((piece, -2.0) for piece in pieces),
    ]
    raw = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=0, byte_fallback=True))
    changes = tokenizers.normalizers
    raw.normalizer = changes.Sequence([changes.Prepend("\u2581"), changes.Replace(" ", "\u2581")])
    steps = tokenizers.decoders
    raw.decoder = steps.Sequence(
        [steps.Replace("\u2581", " "), steps.ByteFallback(), steps.Fuse(), steps.Strip(" ", 1, 0)]
    )
    return Tokenizer(TokenizerFiles(raw, {}, "", add_bos=False), name="blanks")


@pytest.mark.parametrize("tokenizer", [TOKENIZER, blank_dropping()], ids=["bytes", "blanks"])
@pytest.mark.parametrize("before", ["so {", "so { ", "so {  ", "{", "", " "])
@pytest.mark.parametrize("after", ["Yes}", "Yes", "Yes} so $ so", "Yes}" + " so" * 40])
def test_a_verdict_found_from_the_end_is_that_found_in_the_whole(
    tokenizer: Tokenizer, before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, answers = tokenizer.encode(before + after), Answers.of(tokenizer)
    if tokenizer.decode(ids) != before + after:
        assert before.startswith(" ")  # the ids of a turn decode to its text
        return
    question = question_at(tokenizer, answers, ids, before, after)
    monkeypatch.setattr(verdicts, "ENDING_TOKENS", 0)
    assert question_at(tokenizer, answers, ids, before, after) == question
