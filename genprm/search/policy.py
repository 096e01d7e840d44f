r"""A policy: the model whose solutions are judged, sampled whole or step by step through any engine.

A solution in the making is a `Path`. It only grows, by token ids, so that what a model wrote is never tokenised anew
and servers find its prefix in their cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum

from genprm import prompts
from genprm.data.steps import split_steps
from genprm.engines.base import Completion, Engine, Finish, Sampling
from genprm.engines.errors import ContextOverflowError, EngineError
from genprm.engines.stops import shortened
from genprm.types import Tokens

_BLANK_STEPS = 3
"""So many blank steps in a row end a path: the model only writes separators any more."""


class PathState(StrEnum):
    """Where a solution in the making stands."""

    OPEN = "open"
    """It can be continued."""
    FINISHED = "finished"
    """The model ended its turn, or gave its answer."""
    CUT = "cut"
    """The tokens or steps ran out before an end. It is never taken for a solution."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    r"""How a policy is asked and sampled."""

    prompt: str = "{{ problem }}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    """Jinja template of the user's turn. The default is GenPRM's (arXiv 2504.00891, app. A)."""
    system: str | None = None
    chat: bool = True
    """Whether to use the model's chat template; without it the prompt is continued as plain text."""
    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 2048
    """Longest solution."""
    stop: tuple[str, ...] = ("\n\n",)
    """What ends a step."""
    opening: str = ""
    """Written for the model at the beginning of every step, `Step {number}: ` for example (step forcing)."""
    ends_with: str | None = None
    r"""A step that holds this text ends the solution, `\boxed{` for example; else only the end of the turn does."""
    max_steps: int = 64
    """Most steps of a solution that is sampled step by step."""


@dataclass(frozen=True, slots=True)
class Path:
    """A solution in the making."""

    ids: tuple[int, ...]
    """Everything so far, the prompt included, but for `between`."""
    text: str = ""
    """What was written after the prompt."""
    steps: tuple[str, ...] = ()
    """Its steps, as they were sampled."""
    state: PathState = PathState.OPEN
    generated: int = 0
    """Tokens sampled along this path."""
    spent: Tokens = field(default_factory=Tokens)
    """What the last piece of it cost."""
    between: str = ""
    """What separates the last step from the next where steps have an opening: the two are tokenised together, as they
    were when the model was trained."""


class Policy:
    """Samples solutions. Safe for many concurrent calls in one event loop.

    Args:
        engine: the model.
        settings: how it is asked and sampled.
        owned: what `close` closes.
    """

    def __init__(
        self, engine: Engine, settings: PolicySettings | None = None, *, owned: AsyncExitStack | None = None
    ) -> None:
        self.engine = engine
        self.settings = settings or PolicySettings()
        self.name = engine.model_name
        self.capacity = engine.capacity
        self._owned = owned

    def user(self, problem: str) -> str:
        """The first user's turn."""
        return prompts.render_text(self.settings.prompt, problem=problem)

    def begin(self, problem: str, then: Sequence[Mapping[str, str]] = ()) -> Path:
        """An empty solution of a problem.

        Args:
            problem: the question.
            then: further messages, an earlier attempt and its critique for example.

        Raises:
            EngineError: the model has no chat template, or it refuses the messages.
        """
        settings, tokenizer = self.settings, self.engine.tokenizer
        if not settings.chat:
            if then:
                raise EngineError(f"{self.name!r} is asked without a chat template, so it cannot hold a conversation")
            bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
            return Path((*bos, *tokenizer.encode(self.user(problem))))
        system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
        messages = [*system, {"role": "user", "content": self.user(problem)}, *then]
        return Path(tuple(tokenizer.encode_chat(messages, add_generation_prompt=True)))

    async def step(self, path: Path, seed: int, *, greedy: bool = False, chain: str | None = None) -> Path:
        """Continues an open path by one step; what it cost is in `spent`.

        Args:
            path: an open path.
            seed: of this step.
            greedy: take the likeliest tokens, as looking ahead does.
            chain: see `Engine.generate`.
        """
        spent, count = Tokens(), len(path.steps)
        for blank in range(_BLANK_STEPS):
            path = await self._more(path, seed + blank, self.settings.stop, greedy, chain)
            spent += path.spent
            if path.state is not PathState.OPEN or len(path.steps) > count:
                return replace(path, spent=spent)
        return replace(path, state=PathState.CUT, spent=spent)

    async def finish(self, path: Path, seed: int, *, chain: str | None = None) -> Path:
        """Continues an open path to its end, or until tokens or steps run out; what it cost is in `spent`."""
        if not self.settings.opening and self.settings.ends_with is None:
            whole = await self._more(path, seed, (), False, chain)
            # The steps of a text that was written in one go are told apart by its form; see `split_steps`.
            return replace(whole, steps=(*path.steps, *split_steps(whole.text[len(path.text) :])))
        spent = Tokens()
        while path.state is PathState.OPEN:
            if len(path.steps) >= self.settings.max_steps:
                path = replace(path, state=PathState.CUT)
                break
            path = await self.step(path, seed + _BLANK_STEPS * len(path.steps), chain=chain)
            spent += path.spent
        return replace(path, spent=spent)

    async def close(self) -> None:
        """Closes what was opened for this policy. Idempotent."""
        if self._owned is not None:
            await self._owned.aclose()

    async def _more(self, path: Path, seed: int, stop: tuple[str, ...], greedy: bool, chain: str | None) -> Path:
        """One generation."""
        settings, tokenizer = self.settings, self.engine.tokenizer
        opening = settings.opening.replace("{number}", str(len(path.steps) + 1))
        prompt = (*path.ids, *tokenizer.encode(path.between + opening))
        left = settings.max_tokens - path.generated
        if left < 1:
            return replace(path, state=PathState.CUT, spent=Tokens())
        temperature = 0.0 if greedy else settings.temperature
        sampling = Sampling(left, temperature, settings.top_p, settings.top_k, stop, seed)
        try:
            done = await self.engine.generate(prompt, sampling, chain=chain)
        except ContextOverflowError:
            return replace(path, state=PathState.CUT, spent=Tokens())
        return self._grown(path, opening, prompt, done)

    def _grown(self, path: Path, opening: str, prompt: tuple[int, ...], done: Completion) -> Path:
        # An opening that the model leaves blank is no step.
        written = opening + done.text if done.text.strip() else ""
        step, text = written.strip(), path.text + (written or done.text)
        answered = self.settings.ends_with is not None and self.settings.ends_with in step
        if done.finish is Finish.EOS or (done.finish is Finish.STOP and answered):
            state = PathState.FINISHED if text.strip() else PathState.CUT
        else:
            state = PathState.CUT if done.finish is Finish.LENGTH else PathState.OPEN
        ids, between = done.token_ids, ""
        if self.settings.opening and done.stop is not None:
            between = done.stop
            ids = shortened(self.engine.tokenizer, ids, done.text.removesuffix(between))
        return Path(
            (*prompt, *ids),
            text,
            (*path.steps, step) if step else path.steps,
            state,
            path.generated + done.sampled_tokens,
            Tokens(len(prompt), done.sampled_tokens, done.cached_tokens),
            between,
        )
