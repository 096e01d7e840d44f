"""One chain of GenPRM: a conversation over the steps of a solution, with a Python session of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from genprm import prompts
from genprm.config import Mode
from genprm.engines.base import Completion, Engine, Finish, Sampling
from genprm.engines.stops import cut_at_stop
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
from genprm.sandbox import Sandbox, Session
from genprm.types import Chain, ChainFinish, CodeRun, Tokens, Verdict, sigmoid


@dataclass(frozen=True, slots=True)
class ChainSetup:
    """What all chains of a judge share; its fields are arguments of `genprm.prms.genprm.judge.GenPRM`."""

    engine: Engine
    sandbox: Sandbox | None
    mode: Mode
    profile: Profile
    sampling: SamplingDefaults
    certainty: float
    frame: ChatFrame
    choices: tuple[int, int]
    """The tokens of `Yes` and `No`."""

    def first_user_turn(self, problem: str, step: str) -> list[Trusted | Untrusted]:
        """Everything up to the end of the first user turn."""
        system = prompts.render("genprm/system_direct" if self.mode is Mode.DIRECT else "genprm/system")
        template = "genprm/first_turn" if self.profile.question == "bare" else "genprm/first_turn_question"
        first = prompts.render(template, problem=problem, step=step)
        return [Trusted(self.frame.before_system + system + self.frame.before_first_user), Untrusted(first)]

    def with_bos(self, ids: list[int]) -> list[int]:
        """The ids with as many begin-of-sequence tokens in front as the profile says."""
        bos = self.engine.tokenizer.bos_id
        if bos is None:
            return ids
        written = next((index for index, token in enumerate(ids) if token != bos), len(ids))
        return [bos] * self.profile.bos + ids[written:]


@dataclass(slots=True)
class _Turn:
    """One assistant turn as it grows: its text, and the ids that follow the prompt."""

    lead: str
    """What of the text stands in the prompt already."""
    text: str = ""
    """All of the turn, `lead` included."""
    ids: list[int] = field(default_factory=list[int])
    code: list[CodeRun] = field(default_factory=list[CodeRun])
    executed: int = 0
    """Length of the text up to which its code was run: what stands before was partly printed by snippets."""

    @property
    def verdict(self) -> tuple[Verdict, int] | None:
        return find_verdict(self.text, self.executed)

    def append(self, text: str, ids: Sequence[int]) -> None:
        self.text += text
        self.ids += ids

    def drop(self, text: str, done: Completion, tokenizer: Tokenizer) -> None:
        """Takes `text` off the end of the turn, which the generation `done` wrote last."""
        kept = done.text[: len(done.text) - len(text)]
        ids = cut_at_stop(tokenizer, done.token_ids, (kept,)).token_ids if kept else ()
        self.text = self.text[: len(self.text) - len(text)]
        self.ids[len(self.ids) - len(done.token_ids) :] = ids


class ChainRun:
    """One chain over the steps of one solution: its conversation so far, and its Python session."""

    def __init__(self, setup: ChainSetup, problem: str, seed: int, vote: int, stack: AsyncExitStack) -> None:
        self._setup = setup
        self._problem = problem
        self._seed = seed
        self._vote = vote
        self._name = chain_name(seed, vote, problem)
        self._history: list[int] = []
        """All ids up to and including the last finished assistant turn."""
        self._session: Session | None = None
        """Opened with the first snippet, closed by the stack of the judgement."""
        self._stack = stack
        self._tokens = Tokens()
        self._ran: list[str] = []
        """Snippets whose effects the session holds."""

    @property
    def length(self) -> int:
        """Tokens of the conversation so far."""
        return len(self._history)

    def adopt(self, other: ChainRun) -> None:
        """Goes on from the other chain's conversation, after a step about which this one was not asked."""
        self._history = list(other._history)

    def fork(self, stack: AsyncExitStack) -> ChainRun:
        """A chain that goes on from here by itself. Its session, if it needs one, first runs again what ran so far."""
        forked = ChainRun(self._setup, self._problem, self._seed, self._vote, stack)
        forked._history, forked._ran = list(self._history), list(self._ran)
        return forked

    async def step(self, index: int, step: str) -> Chain:
        """Judges the next step."""
        setup, frame, tokenizer = self._setup, self._setup.frame, self._setup.engine.tokenizer
        self._tokens = Tokens()
        user = (
            setup.first_user_turn(self._problem, step) if index == 0 else [Trusted(frame.before_user), Untrusted(step)]
        )
        direct = setup.mode is Mode.DIRECT
        opening = prompts.render("genprm/output") if direct else prompts.render("genprm/analyze", paragraph=index + 1)
        opening_ids = tokenizer.encode(opening)
        turn_start = self._history + self._encode(index, [*user, Trusted(frame.before_assistant)])
        if setup.profile.assistant_marker:
            prompt, turn = turn_start, _Turn("")
            turn.append(opening, opening_ids)
        else:
            # The opening follows the user's text with nothing between: the two are tokenised as one text.
            prompt, turn = self._history + self._encode(index, [*user, Trusted(opening)]), _Turn(opening, opening)
        finish = await self._write(index, step, prompt, turn)
        score, log_odds, verdict = await self._score(prompt, turn)
        self._history = turn_start + turn.ids if not turn.lead else turn_start + opening_ids + turn.ids
        finish = finish if verdict is not None else ChainFinish.NO_VERDICT
        return Chain(turn.text, tuple(turn.code), score, log_odds, verdict, finish, self._tokens)

    def _encode(self, index: int, parts: Sequence[Trusted | Untrusted]) -> list[int]:
        ids = self._setup.engine.tokenizer.encode_parts(*parts)
        return self._setup.with_bos(ids) if index == 0 else ids

    async def _write(self, index: int, step: str, prompt: list[int], turn: _Turn) -> ChainFinish:
        """Fills one assistant turn: analysis, code rounds, judgement."""
        setup, encode, profile = self._setup, self._setup.engine.tokenizer.encode, self._setup.profile
        output = prompts.render("genprm/output")
        if setup.mode is not Mode.DIRECT:
            await self._generate(index, 0, prompt, turn, profile.analysis_tokens, (ANALYSIS_END,))
        analysis, analysis_ids = turn.text, list(turn.ids)
        executes = setup.mode.executes
        if setup.mode is Mode.AUTO:
            yes, no = await self._ask([*prompt, *turn.ids, *encode(output + "{")])
            executes = needs_code(step, sigmoid(yes - no), setup.certainty)
        if setup.mode is Mode.ANALYZE or (setup.mode is Mode.AUTO and not executes):
            turn.append(output, encode(output))
        elif setup.mode is not Mode.DIRECT:
            lead = prompts.render("genprm/verify")
            turn.append(lead, encode(lead))
        # Text that stands in the prompt counts towards the turn's budget all the same, as in the released code.
        budget = profile.step_tokens - len(encode(turn.lead))
        stop = (FENCE_END, OUTPUT_END, FAKE_OUTPUT) if executes else (OUTPUT_END,)
        for number in range(1, profile.rounds + 1):
            left = budget - len(turn.ids)
            if left <= 0:
                break
            done = await self._generate(index, number, prompt, turn, left, stop)
            if done.stop == OUTPUT_END:
                return ChainFinish.VERDICT
            if done.finish is not Finish.STOP and turn.verdict is not None:
                tail = "\n" if turn.text.endswith("</output>") else OUTPUT_END
                turn.append(tail, encode(tail))
                return ChainFinish.VERDICT
            if done.finish is Finish.LENGTH or not executes:
                break
            if not await self._run_code(turn, done) and done.finish is Finish.EOS:
                break
        # The rounds or the budget ran out, or the turn ended without a judgement: ask for one after the analysis alone.
        turn.text, turn.ids, turn.executed = analysis, analysis_ids, 0
        if setup.mode is not Mode.DIRECT:
            tail = output if analysis.endswith(ANALYSIS_END) else ANALYSIS_END + output
            turn.append(tail, encode(tail))
        await self._generate(index, profile.rounds + 1, prompt, turn, FORCED_TOKENS, (OUTPUT_END,))
        return ChainFinish.DEGRADED

    async def _generate(
        self, index: int, number: int, prompt: list[int], turn: _Turn, max_tokens: int, stop: tuple[str, ...]
    ) -> Completion:
        """One engine call that continues the turn."""
        sampling = self._setup.sampling
        seed = call_seed(self._seed, self._vote, index, number)
        done = await self._setup.engine.generate(
            [*prompt, *turn.ids],
            Sampling(max_tokens, sampling.temperature, sampling.top_p, sampling.top_k, stop, seed),
            chain=self._name,
        )
        self._tokens += Tokens(len(prompt) + len(turn.ids), done.sampled_tokens, done.cached_tokens)
        turn.append(done.text, done.token_ids)
        return done

    async def _run_code(self, turn: _Turn, done: Completion) -> bool:
        """Runs the block that was written since the last run and appends its real output; False when there is none."""
        encode = self._setup.engine.tokenizer.encode
        if done.stop == FAKE_OUTPUT:
            # The model began to make up an output. It gets the real one, or none.
            turn.drop(FAKE_OUTPUT, done, self._setup.engine.tokenizer)
        block = last_block(turn.text[turn.executed :])
        if block is None:
            return False
        turn.append(block.closing, encode(block.closing))
        assert self._setup.sandbox is not None
        if self._session is None:
            self._session = await self._stack.enter_async_context(self._setup.sandbox.session())
            for earlier in self._ran:
                await self._session.run(earlier)
        result = await self._session.run(block.source)
        if result.status.keeps_state:
            self._ran.append(block.source)
        turn.code.append(CodeRun(block.source, result.status.value, result.stdout, result.error, result.duration_s))
        shown = prompts.render("genprm/code_output", output=code_output(result, self._setup.profile.output_chars))
        turn.append(shown, encode(shown))
        turn.executed = len(turn.text)
        return True

    async def _score(self, prompt: list[int], turn: _Turn) -> tuple[float | None, float | None, Verdict | None]:
        """Reads P(Yes) against P(No) exactly where the verdict's word stands."""
        found = turn.verdict
        if found is None:
            return None, None, None
        verdict, start = found
        ids = cut_at_stop(self._setup.engine.tokenizer, turn.ids, (turn.text[len(turn.lead) : start],)).token_ids
        yes, no = await self._ask([*prompt, *ids])
        log_odds = yes - no
        return sigmoid(log_odds), log_odds, verdict

    async def _ask(self, ids: list[int]) -> list[float]:
        """Log-probabilities of Yes and No as the next token."""
        return await self._setup.engine.choice_logprobs(ids, self._setup.choices, chain=self._name)
