"""One chain of GenPRM: a conversation over the steps of a solution, with its own Python session."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache

from genprm import prompts
from genprm.config import Mode
from genprm.engines.base import Completion, Engine, Finish, Sampling
from genprm.engines.stops import cut_at_stop, shared_start
from genprm.engines.tokenizer import Tokenizer, Trusted, Untrusted
from genprm.prms.calls import call_seed, chain_name
from genprm.prms.chat import ChatFrame
from genprm.prms.code_blocks import code_output, last_block
from genprm.prms.genprm.adaptive import needs_code
from genprm.prms.genprm.protocol import (
    ANALYSIS_END,
    FAKE_OUTPUT,
    FENCE_END,
    FORCED_TOKENS,
    OUTPUT_END,
    Profile,
    SamplingDefaults,
    find_verdict,
)
from genprm.prms.genprm.verdicts import Answers, Pair, question_at
from genprm.sandbox import Sandbox, Session
from genprm.spent import Part, spent_in
from genprm.types import Chain, ChainFinish, CodeRun, Tokens, Verdict, sigmoid


@cache
def _analyze(paragraph: int) -> str:
    return prompts.render("genprm/analyze", paragraph=paragraph)


@dataclass(frozen=True, slots=True)
class ChainSetup:
    """Shared by all chains of a judge; the fields are arguments of `genprm.prms.genprm.judge.GenPRM`."""

    engine: Engine
    sandbox: Sandbox | None
    mode: Mode
    profile: Profile
    sampling: SamplingDefaults
    certainty: float
    frame: ChatFrame
    answers: Answers
    _known: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of a text of the protocol itself. There are few of them, and every chain needs them."""
        if (ids := self._known.get(text)) is None:
            ids = self._known[text] = self.engine.tokenizer.encode(text)
        return ids

    def first_user_turn(self, problem: str, step: str) -> list[Trusted | Untrusted]:
        """Everything up to the end of the first user turn."""
        system = prompts.render("genprm/system_direct" if self.mode is Mode.DIRECT else "genprm/system")
        template = "genprm/first_turn" if self.profile.question == "bare" else "genprm/first_turn_question"
        first = prompts.render(template, problem=problem, step=step)
        return [Trusted(self.frame.before_system + system + self.frame.before_first_user), Untrusted(first)]

    def opening(self, index: int) -> str:
        """The forced beginning of the assistant turn on a step."""
        if self.mode is Mode.DIRECT:
            return prompts.render("genprm/output")
        opening = _analyze(index + 1)
        return opening.rstrip(" ") if self.profile.seam == "open" else opening

    def with_bos(self, ids: list[int]) -> list[int]:
        """A conversation's ids, preceded by the profile's number of begin-of-sequence tokens."""
        tokenizer, count = self.engine.tokenizer, self.profile.bos
        bos = tokenizer.bos_id
        if bos is None:
            return ids
        if count is None:
            return [bos, *ids] if tokenizer.adds_bos else ids
        rendered = next((index for index, token in enumerate(ids) if token != bos), len(ids))
        return [bos] * count + ids[rendered:]


@dataclass(slots=True)
class _Turn:
    """One growing assistant turn."""

    before: list[int]
    """The conversation up to this turn, including the assistant marker."""
    prompt: list[int]
    """The engine's prompt before `ids`."""
    lead: str = ""
    """The part of the text that is in `prompt`."""
    text: str = ""
    """The whole turn, including `lead`."""
    ids: list[int] = field(default_factory=list[int])
    rows: list[tuple[float, ...] | None] = field(default_factory=list[tuple[float, ...] | None])
    """For each of `ids`, the log-probabilities of the watched tokens at its position, if the engine returned them."""
    code: list[CodeRun] = field(default_factory=list[CodeRun])
    repeated: bool = False
    """Whether a piece of it was ended because it repeated itself."""
    analysed: int = 0
    """Length of the text up to the end of the analysis; a verdict before that is ignored."""
    executed: int = 0
    """Length of the text whose code has run; it contains executed output."""

    @property
    def verdict(self) -> tuple[Verdict, int] | None:
        return find_verdict(self.text, max(self.executed, self.analysed))

    def append(self, text: str, ids: Sequence[int], rows: Sequence[tuple[float, ...]] = ()) -> None:
        self.text += text
        self.ids += ids
        self.rows += [*rows, *[None] * (len(ids) - len(rows))]

    def drop(self, text: str, done: Completion, tokenizer: Tokenizer) -> None:
        """Removes `text` from the end of the turn, which the last generation `done` wrote."""
        kept = done.text[: len(done.text) - len(text)]
        ids = cut_at_stop(tokenizer, done.token_ids, (kept,)).token_ids if kept else ()
        start = len(self.ids) - len(done.token_ids)
        same = shared_start(ids, done.token_ids)
        self.text = self.text[: len(self.text) - len(text)]
        self.ids[start:] = ids
        self.rows[start:] = [*self.rows[start : start + same], *[None] * (len(ids) - same)]


class ChainRun:
    """One chain over the steps of one solution: its conversation so far, and its Python session."""

    def __init__(self, setup: ChainSetup, problem: str, seed: int, vote: int, stack: AsyncExitStack) -> None:
        self.setup = setup
        """Settings for the next step; `mode` may change between steps."""
        self._problem = problem
        self._seed = seed
        self._vote = vote
        self._name = chain_name(seed, vote, problem)
        self._history: list[int] = []
        """All ids up to and including the last finished assistant turn."""
        self._stack = stack
        self._tokens = Tokens()
        self._ran: list[str] = []
        """Snippets that ran in this conversation."""
        self._session: Session | None = None
        self._closing = AsyncExitStack()
        """Closes the session."""
        self._held: list[str] = []
        """Snippets that ran in the current session."""
        self.copied = False
        """Whether the conversation was copied from another chain, so that its votes are not independent."""

    @property
    def length(self) -> int:
        """Tokens of the conversation so far."""
        return len(self._history)

    def adopt(self, other: ChainRun) -> None:
        """Continues from the other chain's conversation and snippets, after a step that this chain skipped."""
        self._history, self._ran, self.copied = list(other._history), list(other._ran), True

    def fork(self, stack: AsyncExitStack) -> ChainRun:
        """An independent chain that continues from here. Its session, if needed, runs all earlier snippets again."""
        forked = ChainRun(self.setup, self._problem, self._seed, self._vote, stack)
        forked._history, forked._ran, forked.copied = list(self._history), list(self._ran), self.copied
        return forked

    async def step(self, index: int, step: str) -> Chain:
        """Judges the next step."""
        setup, encode = self.setup, self.setup.encode
        self._tokens = Tokens()
        frame = setup.frame
        user = (
            setup.first_user_turn(self._problem, step) if index == 0 else [Trusted(frame.before_user), Untrusted(step)]
        )
        before = self._history + self._encode(index, [*user, Trusted(frame.before_assistant)])
        opening = setup.opening(index)
        turn = _Turn(before, before)
        if setup.profile.assistant_marker:
            turn.append(opening, encode(opening))
        else:
            # Nothing separates the opening from the user's text, so the two are tokenised as one text.
            turn.lead = turn.text = opening
            turn.prompt = self._history + self._encode(index, [*user, Trusted(opening)])
        if setup.mode is not Mode.DIRECT:
            await self._generate(index, 0, turn, setup.profile.analysis_tokens, (ANALYSIS_END,))
            if setup.profile.seam == "joined":
                self._join(index, user, opening, turn)
            turn.analysed = len(turn.text)
        finish = await self._write(index, step, turn)
        score, log_odds, verdict = await self._score(turn)
        lead = setup.engine.tokenizer.encode(turn.lead) if turn.lead else ()
        self._history = [*turn.before, *lead, *turn.ids]
        if turn.repeated:
            finish = ChainFinish.REPEATED
        elif verdict is None:
            finish = ChainFinish.NO_VERDICT
        return Chain(turn.text, tuple(turn.code), score, log_odds, verdict, finish, self._tokens, copied=self.copied)

    def _join(self, index: int, user: Sequence[Trusted | Untrusted], opening: str, turn: _Turn) -> None:
        """Tokenises the opening and the analysis as one text, as the released code does from its second stage on."""
        tokenizer, analysis = self.setup.engine.tokenizer, turn.text[len(opening) :]
        ids = tokenizer.encode(turn.text)
        if tokenizer.decode(ids) != turn.text:
            return  # ids that decode to a different text would be worse than a seam
        if turn.lead:
            turn.prompt = self._history + self._encode(index, [*user, Trusted(opening), Untrusted(analysis)])
            turn.lead, ids = turn.text, []
        turn.ids, turn.rows = ids, [None] * len(ids)

    def _encode(self, index: int, parts: Sequence[Trusted | Untrusted]) -> list[int]:
        ids = self.setup.engine.tokenizer.encode_parts(*parts)
        return self.setup.with_bos(ids) if index == 0 else ids

    async def _write(self, index: int, step: str, turn: _Turn) -> ChainFinish:
        """Fills one assistant turn after its analysis: code rounds, judgement."""
        setup, encode, profile = self.setup, self.setup.encode, self.setup.profile
        output = prompts.render("genprm/output")
        analysis, analysis_ids = turn.text, list(turn.ids)
        executes = setup.mode.executes
        if setup.mode is Mode.AUTO:
            yes, no = await self._ask([*turn.prompt, *turn.ids, *encode(output + "{")], setup.answers.plain)
            executes = needs_code(step, sigmoid(yes - no), setup.certainty)
        if setup.mode is Mode.ANALYZE or (setup.mode is Mode.AUTO and not executes):
            turn.append(output, encode(output))
        elif setup.mode is not Mode.DIRECT:
            lead = prompts.render("genprm/verify")
            turn.append(lead, encode(lead))
        # Text in the prompt also counts towards the turn's budget, as in the released code.
        budget = profile.step_tokens - len(setup.engine.tokenizer.encode(turn.lead) if turn.lead else ())
        stop = (FENCE_END, OUTPUT_END, FAKE_OUTPUT) if executes else (OUTPUT_END,)
        for number in range(1, profile.rounds + 1):
            left = budget - len(turn.ids)
            if left <= 0:
                break
            done = await self._generate(index, number, turn, left, stop, watch=setup.answers.watch)
            if done.stop == OUTPUT_END:
                return ChainFinish.VERDICT
            if done.finish is not Finish.STOP and turn.verdict is not None:
                tail = "\n" if turn.text.endswith("</output>") else OUTPUT_END
                turn.append(tail, encode(tail))
                return ChainFinish.VERDICT
            if done.finish in (Finish.LENGTH, Finish.REPEATED) or not executes:
                break
            if not await self._run_code(turn, done) and done.finish is Finish.EOS:
                break
        # Rounds or budget are used up, or the turn ended without a verdict: ask for one after the analysis alone.
        turn.text, turn.ids, turn.executed = analysis, analysis_ids, 0
        turn.rows = [None] * len(analysis_ids)
        if setup.mode is not Mode.DIRECT:
            tail = output if analysis.endswith(ANALYSIS_END) else ANALYSIS_END + output
            turn.append(tail, encode(tail))
        await self._generate(index, profile.rounds + 1, turn, FORCED_TOKENS, (OUTPUT_END,), watch=setup.answers.watch)
        return ChainFinish.DEGRADED

    async def _generate(
        self,
        index: int,
        number: int,
        turn: _Turn,
        max_tokens: int,
        stop: tuple[str, ...],
        watch: tuple[int, ...] = (),
    ) -> Completion:
        """One engine call that continues the turn."""
        sampling = self.setup.sampling
        seed = call_seed(self._seed, self._vote, index, number)
        done = await self.setup.engine.generate(
            [*turn.prompt, *turn.ids],
            Sampling(max_tokens, sampling.temperature, sampling.top_p, sampling.top_k, stop, seed, watch),
            chain=self._name,
        )
        self._tokens += Tokens(len(turn.prompt) + len(turn.ids), done.sampled_tokens, done.cached_tokens, requests=1)
        turn.append(done.text, done.token_ids, done.watched)
        turn.repeated = turn.repeated or done.finish is Finish.REPEATED
        return done

    async def _run_code(self, turn: _Turn, done: Completion) -> bool:
        """Runs the block written since the last run and appends its real output; returns False if there is none."""
        if done.stop == FAKE_OUTPUT:
            # The model started to invent an output: replace it by the real one, or none.
            turn.drop(FAKE_OUTPUT, done, self.setup.engine.tokenizer)
        block = last_block(turn.text[turn.executed :])
        if block is None or not block.source:
            return False
        turn.append(block.closing, self.setup.encode(block.closing))
        with spent_in(Part.SANDBOX):
            result = await (await self._ready()).run(block.source)
        if result.status.keeps_state:
            self._ran.append(block.source)
            self._held.append(block.source)
        turn.code.append(CodeRun(block.source, result.status.value, result.stdout, result.error, result.duration_s))
        shown = prompts.render("genprm/code_output", output=code_output(result, self.setup.profile.output_chars))
        turn.append(shown, self.setup.engine.tokenizer.encode(shown))
        turn.executed = len(turn.text)
        return True

    async def _ready(self) -> Session:
        """A session with the effects of exactly the snippets of this conversation."""
        assert self.setup.sandbox is not None
        if self._session is None or self._ran[: len(self._held)] != self._held:
            await self._closing.aclose()
            self._closing = await self._stack.enter_async_context(AsyncExitStack())
            self._session = await self._closing.enter_async_context(self.setup.sandbox.session())
            self._held = []
        for earlier in self._ran[len(self._held) :]:
            await self._session.run(earlier)
            self._held.append(earlier)
        return self._session

    async def _score(self, turn: _Turn) -> tuple[float | None, float | None, Verdict | None]:
        """Reads P(Yes) against P(No) exactly at the verdict's word."""
        found = turn.verdict
        if found is None:
            return None, None, None
        verdict, start = found
        answers = self.setup.answers
        before, after = turn.text[len(turn.lead) : start], turn.text[start:]
        question = question_at(self.setup.engine.tokenizer, answers, turn.ids, before, after)
        row = turn.rows[len(question.ids)] if question.written else None
        if row is not None and set(question.pair) <= set(answers.watch):
            yes, no = (row[answers.watch.index(token)] for token in question.pair)
        else:
            yes, no = await self._ask([*turn.prompt, *question.ids], question.pair)
        log_odds = yes - no
        return sigmoid(log_odds), log_odds, verdict

    async def _ask(self, ids: list[int], pair: Pair) -> list[float]:
        """Log-probabilities of two next tokens."""
        self._tokens += Tokens(requests=1)
        return await self.setup.engine.choice_logprobs(ids, pair, chain=self._name)
