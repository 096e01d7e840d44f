"""GenPRM: a generative PRM that writes an analysis and Python for every step, reads what the code printed, and decides.

The protocol is that of the paper (Zhao et al., arXiv 2504.00891) and its released code: three stages of forced decoding
a step, `<analyze>`, `<verify>` with executed code, `<output>` with the judgement. Where this differs on purpose:

* The score is read at the verdict from raw log-probabilities, not from the sampled top 20 after temperature and top-p.
* Every chain has a Python session of its own; none sees another's names.
* A block is executed once. Text that only looks like executed output is cut off where it starts.
* The forced question at the end is asked once. No verdict then means no score, rather than 0.5.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import prompts
from genprm.engines.base import Completion, Engine, Finish, Sampling
from genprm.engines.stops import cut_at_stop
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError
from genprm.prms.frame import ChatFrame
from genprm.types import (
    DEFAULT_THRESHOLD,
    Chain,
    ChainFinish,
    CodeRun,
    Judgement,
    Tokens,
    Verdict,
    combine_chains,
    sigmoid,
)
from sandbox import Result, Sandbox, Session, Status

ANALYSIS_END = "</analyze>\n"
FENCE_END = "\n```\n"
OUTPUT_END = "</output>\n"
FAKE_OUTPUT = "[Code Output]"
FORCED_TOKENS = 20
"""What the forced question may generate."""

_VERDICT = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{\s*)?(Yes|No)\b")


class Mode(StrEnum):
    """How much of the protocol a judge goes through."""

    DIRECT = "direct"
    """Only the judgement."""
    ANALYZE = "analyze"
    """An analysis, then the judgement."""
    CODE = "code"
    """Code is written but never run; the model imagines its output."""
    EXECUTE = "execute"
    """Code is written and run, and its real output goes into the judgement."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Where released code, model card and trained models differ. The defaults are the released inference code's."""

    question: Literal["bare", "question"] = "bare"
    r"""First user turn: `{problem}\n{step}` as the ProcessBench driver sends it, or `Question: {problem}\n\n{step}` as
    the model card and the demo do."""
    assistant_marker: bool = False
    """Whether the current turn opens with the template's assistant marker. The released code leaves it out, as it
    renders the prompt up to the user's turn only; earlier turns have it either way. With it, a turn's ids are the same
    when it is written and when it is history, so that the prefix cache holds all of it."""
    bos: int = 2
    """Begin-of-sequence tokens at the start. The released code renders one into the text and vLLM adds another."""
    analysis_tokens: int = 2048
    """Longest analysis."""
    step_tokens: int = 2048
    """Longest assistant turn, executed output included, from which on the forced question is asked."""
    rounds: int = 3
    """Generations after the analysis. (The released code calls this its time limit.)"""
    output_chars: int = 2000
    """Characters of a snippet's output that enter the prompt: head and tail are kept."""

    def __post_init__(self) -> None:
        if self.question not in ("bare", "question"):
            raise PRMError(f"profile.question must be 'bare' or 'question', not {self.question!r}")
        for name in ("analysis_tokens", "step_tokens", "rounds", "output_chars"):
            if getattr(self, name) < 1:
                raise PRMError(f"profile.{name} must be at least 1, not {getattr(self, name)!r}")
        if self.bos < 0:
            raise PRMError(f"profile.bos must be 0 or more, not {self.bos!r}")


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """How chains are sampled. Defaults: the released inference code."""

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20


def code_output(result: Result, limit: int) -> str:
    """What the model is told about a snippet, in the words of the released executor.

    Args:
        result: what the sandbox saw.
        limit: most characters; what is left out is counted in between.
    """
    match result.status:
        case Status.OK | Status.EXIT:
            text = result.stdout.strip()
        case Status.TIMEOUT:
            text = "Code execute time out: Code execution timed out"
        case Status.MEMORY:
            text = f"Code execute Error: MemoryError: {result.error or ''}".rstrip(": ")
        case Status.OUTPUT_LIMIT:
            text = f"{result.stdout.strip()}\nCode execute Error: {result.error}"
        case _:
            text = f"Code execute Error: {result.error}"
    if len(text) <= limit:
        return text
    head, tail = (limit + 1) // 2, limit // 2
    return f"{text[:head]}\n... {len(text) - limit} characters left out ...\n{text[len(text) - tail :] if tail else ''}"


@dataclass(frozen=True, slots=True)
class Block:
    """A Python block of a text."""

    source: str
    closing: str
    """What must follow the text so that the block is closed and a line ended."""


def last_block(text: str) -> Block | None:
    """The last Python block of a text, where there is one. One that is still open reaches to the end of the text."""
    start = text.rfind("```python")
    if start < 0:
        return None
    body = text[start + len("```python") :]
    source, fence, rest = body.partition("```")
    closing = "" if (rest if fence else body).endswith("\n") else "\n"
    return Block(source.strip(), closing if fence else closing + "```\n")


def find_verdict(text: str, start: int = 0) -> tuple[Verdict, int] | None:
    r"""The verdict of an assistant turn, and where its word begins.

    Args:
        text: the assistant's turn.
        start: where to begin. Only what follows the last `<output>` from there on counts, so that neither a
            `\boxed{No}` in the analysis nor one that a snippet printed is a verdict.
    """
    opened = text.rfind("<output>", start)
    if opened < 0:
        return None
    found = list(_VERDICT.finditer(text, opened))
    return (Verdict(found[-1].group(1)), found[-1].start(1)) if found else None


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


class GenPRM:
    """Judges steps with a model of the GenPRM family.

    Args:
        engine: the model.
        sandbox: where code runs; needed for `Mode.EXECUTE` only.
        mode: how much of the protocol to go through.
        votes: independent chains a solution, each with its own history and session; their scores are averaged.
        profile: the variant of the protocol.
        sampling: how chains are sampled.
        threshold: the score from which a step is right.
        owned: what `close` closes: the engine and sandbox that were opened for this judge.

    Raises:
        PRMError: the tokenizer or the arguments do not fit the protocol.
    """

    def __init__(
        self,
        engine: Engine,
        sandbox: Sandbox | None = None,
        *,
        mode: Mode = Mode.EXECUTE,
        votes: int = 1,
        profile: Profile = Profile(),
        sampling: SamplingDefaults = SamplingDefaults(),
        threshold: float = DEFAULT_THRESHOLD,
        owned: AsyncExitStack | None = None,
    ) -> None:
        if mode is Mode.EXECUTE and sandbox is None:
            raise PRMError("executing code needs a sandbox: pass one, or choose another mode")
        if votes < 1:
            raise PRMError(f"votes must be at least 1, not {votes!r}")
        self.engine = engine
        self.sandbox = sandbox
        self.mode = mode
        self.votes = votes
        self.profile = profile
        self.sampling = sampling
        self.threshold = threshold
        self.name = engine.model_name
        self.capacity = engine.capacity
        self.owned = owned
        self.frame = ChatFrame.of(engine.tokenizer)
        self.choices = [engine.tokenizer.encode(word)[-1] for word in ("Yes", "No")]
        if self.choices[0] == self.choices[1]:
            raise PRMError(f"the tokenizer of {self.name!r} does not tell 'Yes' from 'No' by their last token")

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges every step of a solution; see `genprm.prms.base.PRM`."""
        if not steps:
            raise PRMError("there are no steps to judge")
        for index, step in enumerate(steps):
            if not step.strip():
                raise PRMError(f"step {index} is blank: {step!r}")
        runs = [_ChainRun(self, problem, seed, vote) for vote in range(self.votes)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run.run(steps)) for run in runs]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        chains = [task.result() for task in tasks]
        by_step = [combine_chains(step_chains, self.threshold) for step_chains in zip(*chains, strict=True)]
        tokens = sum((chain.tokens for path in chains for chain in path), Tokens())
        return Judgement(tuple(by_step), self.threshold, tokens)

    async def close(self) -> None:
        """Closes what was opened for this judge; see `genprm.prms.base.PRM`."""
        if self.owned is not None:
            await self.owned.aclose()

    def opening(self, problem: str, step: str) -> list[tuple[str, bool]]:
        """Everything up to the end of the first user turn, as parts of trusted and untrusted text."""
        system = prompts.render("genprm/system_direct" if self.mode is Mode.DIRECT else "genprm/system")
        template = "genprm/first_turn" if self.profile.question == "bare" else "genprm/first_turn_question"
        first = prompts.render(template, problem=problem, step=step)
        frame = self.frame
        return [(frame.before_system + system + frame.before_first_user, True), (first, False)]

    def with_bos(self, ids: list[int]) -> list[int]:
        """The ids with as many begin-of-sequence tokens in front as the profile says."""
        bos = self.engine.tokenizer.bos_id
        if bos is None:
            return ids
        written = next((index for index, token in enumerate(ids) if token != bos), len(ids))
        return [bos] * self.profile.bos + ids[written:]


class _ChainRun:
    """One chain over the steps of one solution: its conversation so far, and its Python session."""

    def __init__(self, prm: GenPRM, problem: str, seed: int, vote: int) -> None:
        self._prm = prm
        self._problem = problem
        self._seed = seed
        self._vote = vote
        self._name = hashlib.blake2b(f"{seed}/{vote}/{problem}".encode(), digest_size=8).hexdigest()
        self._history: list[int] = []
        """All ids up to and including the last finished assistant turn."""
        self._session: Session | None = None
        self._tokens = Tokens()

    async def run(self, steps: Sequence[str]) -> list[Chain]:
        """Judges the steps in order."""
        async with AsyncExitStack() as stack:
            return [await self._step(index, step, stack) for index, step in enumerate(steps)]

    async def _step(self, index: int, step: str, stack: AsyncExitStack) -> Chain:
        prm, frame, tokenizer = self._prm, self._prm.frame, self._prm.engine.tokenizer
        self._tokens = Tokens()
        user = prm.opening(self._problem, step) if index == 0 else [(frame.before_user, True), (step, False)]
        direct = prm.mode is Mode.DIRECT
        opening = prompts.render("genprm/output") if direct else prompts.render("genprm/analyze", paragraph=index + 1)
        opening_ids = tokenizer.encode(opening)
        turn_start = self._history + self._encode(index, [*user, (frame.before_assistant, True)])
        if prm.profile.assistant_marker:
            prompt, turn = turn_start, _Turn("")
            turn.append(opening, opening_ids)
        else:
            # The opening follows the user's text with nothing between: the two are tokenised as one text.
            prompt, turn = self._history + self._encode(index, [*user, (opening, True)]), _Turn(opening, opening)
        finish = await self._write(index, prompt, turn, stack)
        score, log_odds, verdict = await self._score(prompt, turn)
        self._history = turn_start + turn.ids if not turn.lead else turn_start + opening_ids + turn.ids
        finish = finish if verdict is not None else ChainFinish.NO_VERDICT
        return Chain(turn.text, tuple(turn.code), score, log_odds, verdict, finish, self._tokens)

    def _encode(self, index: int, parts: Sequence[tuple[str, bool]]) -> list[int]:
        ids = self._prm.engine.tokenizer.encode_parts(*parts)
        return self._prm.with_bos(ids) if index == 0 else ids

    async def _write(self, index: int, prompt: list[int], turn: _Turn, stack: AsyncExitStack) -> ChainFinish:
        """Fills one assistant turn: analysis, code rounds, judgement."""
        prm, encode, profile = self._prm, self._prm.engine.tokenizer.encode, self._prm.profile
        output = prompts.render("genprm/output")
        if prm.mode is not Mode.DIRECT:
            await self._generate(index, 0, prompt, turn, profile.analysis_tokens, (ANALYSIS_END,))
        analysis, analysis_ids = turn.text, list(turn.ids)
        if prm.mode is Mode.ANALYZE:
            turn.append(output, encode(output))
        elif prm.mode is not Mode.DIRECT:
            lead = prompts.render("genprm/verify")
            turn.append(lead, encode(lead))
        # Text that stands in the prompt counts towards the turn's budget all the same, as in the released code.
        budget = profile.step_tokens - len(encode(turn.lead))
        stop = (FENCE_END, OUTPUT_END, FAKE_OUTPUT) if prm.mode is Mode.EXECUTE else (OUTPUT_END,)
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
            if done.finish is Finish.LENGTH or prm.mode is not Mode.EXECUTE:
                break
            if not await self._run_code(turn, done, stack) and done.finish is Finish.EOS:
                break
        # The rounds or the budget ran out, or the turn ended without a judgement: ask for one after the analysis alone.
        turn.text, turn.ids, turn.executed = analysis, analysis_ids, 0
        if prm.mode is not Mode.DIRECT:
            tail = output if analysis.endswith(ANALYSIS_END) else ANALYSIS_END + output
            turn.append(tail, encode(tail))
        await self._generate(index, profile.rounds + 1, prompt, turn, FORCED_TOKENS, (OUTPUT_END,))
        return ChainFinish.DEGRADED

    async def _generate(
        self, index: int, number: int, prompt: list[int], turn: _Turn, max_tokens: int, stop: tuple[str, ...]
    ) -> Completion:
        """One engine call that continues the turn."""
        sampling = self._prm.sampling
        name = f"{self._seed}/{self._vote}/{index}/{number}"
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") >> 1
        done = await self._prm.engine.generate(
            [*prompt, *turn.ids],
            Sampling(max_tokens, sampling.temperature, sampling.top_p, sampling.top_k, stop, seed),
            chain=self._name,
        )
        self._tokens += Tokens(len(prompt) + len(turn.ids), done.sampled_tokens, done.cached_tokens)
        turn.append(done.text, done.token_ids)
        return done

    async def _run_code(self, turn: _Turn, done: Completion, stack: AsyncExitStack) -> bool:
        """Runs the block that was written since the last run and appends its real output; False when there is none."""
        encode = self._prm.engine.tokenizer.encode
        if done.stop == FAKE_OUTPUT:
            # The model began to make up an output. It gets the real one, or none.
            turn.drop(FAKE_OUTPUT, done, self._prm.engine.tokenizer)
        block = last_block(turn.text[turn.executed :])
        if block is None:
            return False
        turn.append(block.closing, encode(block.closing))
        assert self._prm.sandbox is not None
        if self._session is None:
            self._session = await stack.enter_async_context(self._prm.sandbox.session())
        result = await self._session.run(block.source)
        turn.code.append(CodeRun(block.source, result.status.value, result.stdout, result.error, result.duration_s))
        shown = prompts.render("genprm/code_output", output=code_output(result, self._prm.profile.output_chars))
        turn.append(shown, encode(shown))
        turn.executed = len(turn.text)
        return True

    async def _score(self, prompt: list[int], turn: _Turn) -> tuple[float | None, float | None, Verdict | None]:
        """Reads P(Yes) against P(No) exactly where the verdict's word stands."""
        found = turn.verdict
        if found is None:
            return None, None, None
        verdict, start = found
        engine = self._prm.engine
        ids = cut_at_stop(engine.tokenizer, turn.ids, (turn.text[len(turn.lead) : start],)).token_ids
        yes, no = await engine.choice_logprobs([*prompt, *ids], self._prm.choices, chain=self._name)
        log_odds = yes - no
        return sigmoid(log_odds), log_odds, verdict
