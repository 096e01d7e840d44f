r"""A policy: the model whose solutions are judged, sampled whole or step by step through any engine.

A `PartialSolution` only grows, by token ids: text that the model wrote is never tokenised again, and servers find its
prefix in their cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from genprm import prompts
from genprm.config import PolicyConfig
from genprm.data.steps import split_steps
from genprm.data.thoughts import THINK, THINK_END, UNCLOSED, cut_thoughts
from genprm.engines.base import Completion, Engine, Finish, Sampling
from genprm.engines.errors import ContextOverflowError, EngineError
from genprm.engines.stops import shortened
from genprm.types import Tokens

_BLANK_STEPS = 3
"""Blank steps in a row after which a solution is cut: the model only writes separators."""


class SolutionState(StrEnum):
    """State of a partial solution."""

    OPEN = "open"
    """It can be continued."""
    FINISHED = "finished"
    """The model ended its turn or gave its answer."""
    CUT = "cut"
    """Tokens or steps ran out before the end. It never counts as a solution."""


@dataclass(frozen=True, slots=True)
class PartialSolution:
    """A solution so far."""

    ids: tuple[int, ...]
    """Token ids of the prompt and the solution so far, without `between`."""
    text: str = ""
    """Text after the prompt, without thoughts."""
    steps: tuple[str, ...] = ()
    """Its steps, as sampled."""
    state: SolutionState = SolutionState.OPEN
    generated: int = 0
    """Tokens sampled for this solution so far."""
    spent: Tokens = field(default_factory=Tokens)
    """Tokens spent on its latest extension."""
    reason: str | None = None
    """Why it was cut; None unless it was."""
    between: str = ""
    """Separator before the next step when steps have an opening: both are tokenised together, as in training."""
    thoughts: str | None = None
    """A reasoning model's thoughts before the solution: never judged, graded or sent back."""
    thinking: bool = False
    """Whether the latest token is part of a thought."""


class Policy:
    """Samples solutions. Safe for many concurrent calls in one event loop.

    Args:
        engine: the model.
        settings: prompt and sampling.

    Raises:
        EngineError: the model has no chat template, and the settings ask for one.
    """

    def __init__(self, engine: Engine, settings: PolicyConfig | None = None) -> None:
        self.engine = engine
        self.settings = settings or PolicyConfig()
        self.name = engine.model_name
        self.capacity = engine.capacity
        if self.settings.chat:
            try:
                engine.tokenizer.render_chat([{"role": "user", "content": ""}], add_generation_prompt=True)
            except EngineError as error:
                raise EngineError(f"{error}: use another policy, or `chat: false` to continue plain text") from None

    def user(self, problem: str) -> str:
        """The first user turn."""
        return prompts.render_text(self.settings.prompt, problem=problem)

    def begin(self, problem: str, then: Sequence[Mapping[str, str]] = ()) -> PartialSolution:
        """Starts an empty solution of a problem.

        Args:
            problem: the question.
            then: further messages, such as an earlier attempt and its critique.

        Raises:
            EngineError: the model has no chat template, or it refuses the messages.
        """
        settings, tokenizer = self.settings, self.engine.tokenizer
        if not settings.chat:
            if then:
                raise EngineError(
                    f"{self.name!r} is prompted without a chat template, so it cannot hold a conversation"
                )
            bos = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
            return self._begun([*bos, *tokenizer.encode(self.user(problem))])
        system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
        messages = [*system, {"role": "user", "content": self.user(problem)}, *then]
        return self._begun(tokenizer.encode_chat(messages, add_generation_prompt=True))

    def _begun(self, ids: Sequence[int]) -> PartialSolution:
        # The templates of some reasoning models open the thought themselves.
        tail = self.engine.tokenizer.decode(ids[-2 * len(THINK) :])
        return PartialSolution(tuple(ids), thinking=tail.rstrip().endswith(THINK))

    async def step(
        self, solution: PartialSolution, seed: int, *, greedy: bool = False, chain: str | None = None
    ) -> PartialSolution:
        """Extends an open solution by one step; `spent` holds its cost.

        Args:
            solution: an open solution.
            seed: seed of this step.
            greedy: sample at temperature 0, as lookahead does.
            chain: see `Engine.generate`.
        """
        spent, count, blank = Tokens(), len(solution.steps), 0
        while blank < _BLANK_STEPS:
            thought = solution.thinking
            solution = await self._more(solution, seed + blank, self.settings.stop, greedy, chain)
            spent += solution.spent
            if solution.state is not SolutionState.OPEN or len(solution.steps) > count:
                return replace(solution, spent=spent)
            # A thought belongs to the step after it.
            blank += not (thought or solution.thinking)
        return replace(_cut(solution, f"the policy wrote {_BLANK_STEPS} blank steps in a row"), spent=spent)

    async def finish(self, solution: PartialSolution, seed: int, *, chain: str | None = None) -> PartialSolution:
        """Extends an open solution to its end, or until tokens or steps run out; `spent` holds the cost."""
        if not self.settings.opening and self.settings.ends_with is None:
            whole = await self._more(solution, seed, None, False, chain)
            # A text sampled in one piece is split by its form; see `split_steps`.
            return replace(whole, steps=(*solution.steps, *split_steps(whole.text[len(solution.text) :])))
        spent = Tokens()
        while solution.state is SolutionState.OPEN:
            if len(solution.steps) >= self.settings.max_steps:
                solution = _cut(solution, f"unfinished after max_steps ({self.settings.max_steps}) steps")
                break
            solution = await self.step(solution, seed + _BLANK_STEPS * len(solution.steps), chain=chain)
            spent += solution.spent
        return replace(solution, spent=spent)

    async def _more(
        self, solution: PartialSolution, seed: int, stop: tuple[str, ...] | None, greedy: bool, chain: str | None
    ) -> PartialSolution:
        """One generation: to the end without stop strings, else a step, or the rest of a thought."""
        settings, tokenizer = self.settings, self.engine.tokenizer
        if stop and solution.thinking:
            stop = (THINK_END,)
        opening = "" if solution.thinking else settings.opening.replace("{number}", str(len(solution.steps) + 1))
        prompt = (*solution.ids, *tokenizer.encode(solution.between + opening))
        left = settings.max_tokens - solution.generated
        if left < 1:
            return _cut(solution, self._too_long())
        temperature = 0.0 if greedy else settings.temperature
        sampling = Sampling(left, temperature, settings.top_p, settings.top_k, stop or (), seed)
        try:
            done = await self.engine.generate(prompt, sampling, chain=chain)
        except ContextOverflowError as error:
            return _cut(solution, f"unfinished in the policy's context: {error}")
        return self._grown(solution, opening, prompt, done)

    def _grown(
        self, solution: PartialSolution, opening: str, prompt: tuple[int, ...], done: Completion
    ) -> PartialSolution:
        part = cut_thoughts(done.text, thinking=solution.thinking)
        # An opening with nothing after it does not count as a step.
        written = opening + part.solution if part.solution.strip() else ""
        step, text = written.strip(), solution.text + (written or part.solution)
        answered = self.settings.ends_with is not None and self.settings.ends_with in step
        reason: str | None = None
        if done.finish is Finish.EOS or (done.finish is Finish.STOP and answered):
            state = SolutionState.FINISHED if text.strip() and not part.thinking else SolutionState.CUT
            reason = None if text.strip() else "the policy wrote nothing"
        else:
            state = SolutionState.OPEN if done.finish.complete else SolutionState.CUT
            reason = self._too_long() if done.finish is Finish.LENGTH else None
            if done.finish is Finish.REPEATED:
                reason = "unfinished: the policy repeated itself"
        if state is SolutionState.CUT and part.thinking and done.finish is not Finish.REPEATED:
            reason = UNCLOSED
        ids, between = done.token_ids, ""
        if self.settings.opening and done.stop is not None and written:
            between = done.stop
            ids = shortened(self.engine.tokenizer, ids, done.text.removesuffix(between))
        return PartialSolution(
            (*prompt, *ids),
            text,
            (*solution.steps, step) if step else solution.steps,
            state,
            solution.generated + done.sampled_tokens,
            Tokens(len(prompt), done.sampled_tokens, done.cached_tokens),
            reason,
            between,
            "\n\n".join(filter(None, (solution.thoughts, part.thoughts))) or None,
            part.thinking,
        )

    def _too_long(self) -> str:
        return f"unfinished after max_tokens ({self.settings.max_tokens}) tokens"


def _cut(solution: PartialSolution, reason: str) -> PartialSolution:
    return replace(solution, state=SolutionState.CUT, spent=Tokens(), reason=reason)
