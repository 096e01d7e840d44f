"""Conversations as token ids and labels, made by the judge that will read them.

A row's `labels` are -100 for text that the model does not write: user turns, forced prefixes, executed output. Text is
tokenised in the same parts as in the judge's calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import cast

from genprm import prompts
from genprm.config import Mode
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.genprm.chain import ChainRun
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.genprm.protocol import ANALYSIS_END, Profile, find_verdict
from genprm.prms.genprm.verdicts import Answers
from genprm.prms.profiles import GenPRMModel, ThinkPRMModel
from genprm.prms.thinkprm.judge import QUESTION, THINK_END, ThinkPRMJudge, ThinkProfile
from genprm.sandbox import Sandbox
from genprm.train.replay import IGNORE, Recorded, ReplayEngine, ReplayError, ReplaySandbox
from genprm.train.rows import RowError
from genprm.types import Verdict

Generative = GenPRMModel | ThinkPRMModel
"""The models whose rationales can be trained on."""


class ExportError(RowError):
    """A conversation does not follow the layout of the judge to be trained; names the turn and the reason."""


@dataclass(frozen=True, slots=True)
class VerdictAt:
    """The position of a verdict in a sequence."""

    step: int
    """0-based step of the solution; -1 for the verdict on the whole."""
    at: int
    """Index of its token in the ids."""
    correct: bool
    yes: int
    no: int
    """The No token of the pair that the judge compares."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One training sequence."""

    input_ids: list[int]
    labels: list[int]
    """(tokens,) the id where the model writes it, -100 elsewhere."""
    verdicts: tuple[VerdictAt, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """One recorded review of a solution: its prompts and responses."""

    problem: str
    steps: tuple[str, ...]
    """The steps with a turn (GenPRM), or all (ThinkPRM)."""
    turns: tuple[str, ...]
    """The assistant's turns: one per step (GenPRM), or one (ThinkPRM)."""


async def export(conversation: Conversation, tokenizer: Tokenizer, model: Generative) -> list[TokenRow]:
    """The training sequences of one conversation.

    One sequence, unless the profile shows a turn in other tokens once it is history (`assistant_marker` off, as in the
    released GenPRM code): then one per turn, each learning only its own turn.

    Args:
        conversation: what was asked and written.
        tokenizer: of the model to be trained.
        model: the family and its profile.

    Raises:
        ExportError: the turns are not in the layout of this judge, or exceed its budget.
        PRMError: the tokenizer does not fit the protocol.
    """
    if isinstance(model, ThinkPRMModel):
        return await _export_thinkprm(conversation, tokenizer, model.profile)
    return await _export_genprm(conversation, tokenizer, model.profile)


def read_conversation(row: Mapping[str, object], model: Generative) -> Conversation:
    """The conversation of a data set's row with `messages`, and `problem` and `steps` where it has them.

    Raises:
        ExportError: a column is missing or of the wrong form, or the user's turns are not those of the judge.
    """
    messages = row.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ExportError("there are no `messages`: a list of {role, content} is wanted, as `genprm synthesize` writes")
    turns: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    for number, message in enumerate(cast(Sequence[object], messages)):
        fields: Mapping[str, object] = cast("Mapping[str, object]", message) if isinstance(message, Mapping) else {}
        role, content = fields.get("role"), fields.get("content")
        if not isinstance(role, str) or role not in turns or not isinstance(content, str):
            raise ExportError(f"messages[{number}] needs a role of system, user or assistant and a text: {message!r}")
        turns[role].append(content)
    if not turns["assistant"] or len(turns["user"]) != len(turns["assistant"]):
        counts = f"{len(turns['user'])} user and {len(turns['assistant'])} assistant turns"
        raise ExportError(f"a critique follows each user turn: there are {counts}")
    problem, steps = row.get("problem"), row.get("steps")
    if not isinstance(problem, str) or not isinstance(steps, Sequence) or isinstance(steps, str):
        if isinstance(model, ThinkPRMModel):
            raise ExportError("a ThinkPRM row needs the columns `problem` (text) and `steps` (list)")
        problem, first = _split_first(turns["user"][0], model.profile)
        steps = [first, *turns["user"][1:]]
    texts = tuple(str(step) for step in cast(Sequence[object], steps))
    if isinstance(model, GenPRMModel):
        if len(turns["assistant"]) > len(texts):
            raise ExportError(f"{len(turns['assistant'])} critiques do not fit {len(texts)} steps")
        texts = texts[: len(turns["assistant"])]
        _check_first(turns["user"][0], problem, texts[0])
        for number, (said, step) in enumerate(zip(turns["user"][1:], texts[1:], strict=True), start=1):
            if said != step:
                raise ExportError(f"user turn {number} says {said[:60]!r}, but step {number} is {step[:60]!r}")
    elif len(turns["assistant"]) != 1:
        raise ExportError(f"a ThinkPRM row has one critique of the whole, not {len(turns['assistant'])}")
    return Conversation(problem, texts, tuple(turns["assistant"]))


_FIRST_TURNS = ("genprm/first_turn", "genprm/first_turn_question")


def _check_first(said: str, problem: str, step: str) -> None:
    """Checks that the first user turn has this problem and step, in either form: the profile's is trained."""
    if all(said != prompts.render(name, problem=problem, step=step) for name in _FIRST_TURNS):
        raise ExportError(
            f"user turn 0 says {said[:60]!r}, but the problem is {problem[:60]!r} and step 0 is {step[:60]!r}"
        )


def _split_first(text: str, profile: Profile) -> tuple[str, str]:
    """Problem and step of the first user turn. Where both stand in one text, any split renders the same."""
    if profile.question == "bare" and text.startswith("Question: ") and "\n\n" in text:
        # The text would be trained with its `Question: `, and the judge would be asked without it.
        raise ExportError(
            f"the first user turn begins with 'Question: ', and is not in the form bare: {text[:80]!r}; "
            "pass --question question"
        )
    lead, mark = ("Question: ", "\n\n") if profile.question == "question" else ("", "\n")
    head, found, step = text.removeprefix(lead).rpartition(mark)
    if not found or not text.startswith(lead):
        raise ExportError(f"the first user turn is not `{lead}PROBLEM{mark!r}STEP`: {text[:80]!r}")
    return head, step


async def _export_genprm(conversation: Conversation, tokenizer: Tokenizer, profile: Profile) -> list[TokenRow]:
    engine = ReplayEngine(tokenizer)
    # The judge sends the same ids to a sandbox that runs the code and to one that repeats what it printed.
    sandbox = cast(Sandbox, ReplaySandbox(engine))
    prm = GenPRM(engine, sandbox, profile=profile)
    forced = (prompts.render("genprm/verify"), prompts.render("genprm/output"))
    found: list[tuple[int, Verdict, int]] = []
    async with AsyncExitStack() as stack:
        chain = ChainRun(prm.setup, conversation.problem, 0, 0, stack)
        for index, (step, turn) in enumerate(zip(conversation.steps, conversation.turns, strict=True)):
            # A conversation may have turns with and without code.
            chain.setup = replace(prm.setup, mode=mode_of(turn))
            opening = chain.setup.opening(index)
            if not turn.startswith(opening):
                raise ExportError(f"turn {index} does not begin with {opening!r} but with {turn[:60]!r}")
            if (verdict := find_verdict(turn)) is None:
                raise ExportError(f"turn {index} has no verdict: it ends in {turn[-60:]!r}")
            engine.expect(turn[len(opening) :], () if chain.setup.mode is Mode.DIRECT else forced)
            try:
                written = await chain.step(index, step)
            except ReplayError as error:
                raise ExportError(f"turn {index}: {error}") from None
            if written.text != turn:
                same = _shared(written.text, turn)
                raise ExportError(
                    f"turn {index} is not what the judge would write: they part at {turn[same : same + 60]!r}"
                )
            found.append((index, verdict[0], len(engine.sequences) - 1))
    answers = prm.setup.answers
    rows: list[TokenRow] = []
    for number, recorded in enumerate(engine.sequences):
        own = [(step, verdict) for step, verdict, sequence in found if sequence == number]
        rows.append(_row(recorded, own, answers))
    return rows


async def _export_thinkprm(conversation: Conversation, tokenizer: Tokenizer, profile: ThinkProfile) -> list[TokenRow]:
    (turn,) = conversation.turns
    body, found, answer = turn.rpartition(QUESTION)
    word = answer.strip()
    if not found or word not in (Verdict.YES, Verdict.NO) or not answer.startswith(" "):
        raise ExportError(f"the chain must end in `{QUESTION} Yes` or `{QUESTION} No`, not in {turn[-60:]!r}")
    # Text that is already in the prompt is not written by the model.
    engine = ReplayEngine(tokenizer, ("<think>", THINK_END))
    judge = ThinkPRMJudge(engine, profile=profile)
    if "<think>" in judge.opening and body.startswith("<think>"):
        body = body.removeprefix("<think>").removeprefix("\n" if judge.opening.endswith("\n") else "")
    if THINK_END not in body and "<think>" in judge.opening + body:
        raise ExportError(f"the chain opens <think> and never closes it: {turn[-80:]!r}")
    engine.expect(body + (QUESTION if profile.decision == "forced" else QUESTION + answer.rstrip()))
    try:
        judgement = await judge.judge(conversation.problem, conversation.steps)
    except ReplayError as error:
        raise ExportError(str(error)) from None
    chain = judgement.solution.chains[0] if judgement.solution is not None else None
    if chain is None or not chain.text.startswith(body):
        raise ExportError("the chain is not what the judge would read")
    recorded = engine.sequences[-1]
    verdict = Verdict(word)
    yes, no = (tokenizer.encode(f" {one}")[-1] for one in (Verdict.YES, Verdict.NO))
    if profile.decision == "forced":
        # The judge puts the first ids of the answer there itself where both answers share them.
        engine.write([yes if verdict is Verdict.YES else no], learned=True)
    if tokenizer.eos_id is not None:
        engine.write([tokenizer.eos_id], learned=True)
    asked = [q for q in recorded.questions if set(q.choices) == {yes, no}]
    at = asked[-1].at if asked else -1
    verdicts = (VerdictAt(-1, at, verdict is Verdict.YES, yes, no),) if at >= 0 else ()
    return [TokenRow(recorded.ids, recorded.labels, verdicts)]


def mode_of(turn: str) -> Mode:
    """The mode of GenPRM's protocol in which a turn was written."""
    if turn.startswith(prompts.render("genprm/output")):
        return Mode.DIRECT
    after = turn.partition(ANALYSIS_END)[2]
    return Mode.EXECUTE if after.startswith(prompts.render("genprm/verify")) else Mode.ANALYZE


def _row(recorded: Recorded, own: Sequence[tuple[int, Verdict]], answers: Answers) -> TokenRow:
    asked = [question for question in recorded.questions if question.choices in (answers.plain, answers.spaced)]
    verdicts: list[VerdictAt] = []
    if len(asked) == len(own):
        for (step, verdict), question in zip(own, asked, strict=True):
            yes, no = question.choices
            if recorded.ids[question.at] == (yes if verdict is Verdict.YES else no):
                verdicts.append(VerdictAt(step, question.at, verdict is Verdict.YES, yes, no))
    return TokenRow(recorded.ids, recorded.labels, tuple(verdicts))


def _shared(first: str, second: str) -> int:
    """Length of the common prefix of two texts."""
    return next(
        (k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def learned_tokens(rows: Sequence[TokenRow]) -> int:
    """Number of tokens in the loss."""
    return sum(label != IGNORE for row in rows for label in row.labels)
