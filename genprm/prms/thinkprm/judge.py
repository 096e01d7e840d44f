r"""The judge of the ThinkPRM family: one long chain of thought over a whole solution, then one question.

The protocol is that of the paper (Khalifa et al., arXiv 2504.16828) and its released class. The chain labels the steps
in its prose, `The step is \boxed{correct}`, and ends in `Is the solution correct?`, whose answer, P(" Yes") against
P(" No"), scores the solution.

How that becomes a judgement:

* `Judgement.solution` is the answer to the question: its score, its log-odds, and the chains with all their text.
* A step's score is the share of chains that label it correct. A step after the first one that a chain calls incorrect
  counts as wrong in that chain (`ChainFinish.IMPLIED`), as the model is trained to stop there. A step that a chain
  otherwise skips has no verdict in that chain, and is left out of the mean.
* With `per_step`, a separate chain judges every prefix of the solution, and a step's score is the answer about the
prefix that ends with it. The cost is multiplied by the number of steps, and every step gets its own score.

Deliberate differences from the released class: the question is asked of every chain, and its answer is read exactly
from two log-probabilities; a chain without a decision has no score rather than -1; each of several chains goes through
all rounds, and the blank that a round begins with is kept; a step's own label is replaced, not doubled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from genprm import prompts
from genprm.concurrency import gather
from genprm.engines.admission import Admission, Place
from genprm.engines.base import Completion, Engine, Finish, Sampling
from genprm.engines.errors import ContextOverflowError
from genprm.engines.stops import cut_at_stop
from genprm.prms.base import PRMError, model_facts
from genprm.prms.calls import call_seed, chain_name, characters_of, check_steps, check_votes, where_they_part
from genprm.prms.genprm.protocol import SamplingDefaults
from genprm.prms.step_labels import LabelKind, WrittenLabel, align_labels, unlabelled
from genprm.types import (
    DEFAULT_THRESHOLD,
    Chain,
    ChainFinish,
    Judgement,
    StepJudgement,
    Tokens,
    Verdict,
    combine_chains,
    sigmoid,
)

if TYPE_CHECKING:
    from pydantic import JsonValue

QUESTION = "Is the solution correct?"
THINK_END = "</think>"
TRIGGERS = ("Let me double check", "Let's verify again", "Did I miss something?")
"""Openings of the second, third and fourth round. Repeating one phrase would make the model repeat itself."""
MAX_ROUNDS = len(TRIGGERS) + 1
INSTRUCTION = prompts.render("thinkprm/instruction")
SUFFIX = "\nLet's verify step by step:"
"""Text after the chat template in the first released code and on the model cards."""

GREEDY = SamplingDefaults(0.0, 1.0, 0)
PARALLEL = SamplingDefaults(0.6, 1.0, 0)
"""Sampling of several chains (arXiv 2504.16828, section 4)."""


def think_sampling(votes: int) -> SamplingDefaults:
    """The default sampling: greedy for one chain, `PARALLEL` for several."""
    return GREEDY if votes == 1 else PARALLEL


@dataclass(frozen=True, slots=True)
class ThinkProfile:
    """The variant of the protocol. The defaults are the current released class's, except `decision`."""

    instruction: str = INSTRUCTION
    """The end of the user turn. The model cards omit its full stop."""
    template: str = ""
    """A Jinja template of the user turn, for domains other than mathematics, with the variables `problem`, `solution`
        (the labelled steps) and `instruction`. Empty means the official one."""
    suffix: str = ""
    """Text after the chat template. Empty in the current class; `SUFFIX` in the older code and on the model cards,
    where
        small models then write empty chains."""
    bos: int = 1
    """Begin-of-sequence tokens at the start. The released class sends two in its main call and one with the
    question."""
    max_tokens: int = 8192
    """Longest thinking per round, limited to the rest of the context."""
    decision: Literal["forced", "official"] = "forced"
    """`forced` asks the question after every chain. `official` uses the last position whose most likely token is one of
        the two answers, anywhere in the chain; without such a position there is no score."""
    decision_temperature: float = 1.0
    """Divides the log-odds of the answer."""
    rounds: int = 1
    """Rounds of thinking, 1 to 4 (sequential scaling): after each except the last, the chain is told to check again."""
    per_step: bool = False
    """Judge every prefix with separate chains, rather than the solution once."""
    step_scores: Literal["labels", "odds"] = "labels"
    """The score of a step in a chain: its label as 1 or 0, or P(correct) against P(incorrect) at the label's position,
    which costs one call per step."""

    def __post_init__(self) -> None:
        if self.decision not in ("forced", "official"):
            raise PRMError(f"profile.decision must be 'forced' or 'official', not {self.decision!r}")
        if self.step_scores not in ("labels", "odds"):
            raise PRMError(f"profile.step_scores must be 'labels' or 'odds', not {self.step_scores!r}")
        if not 1 <= self.rounds <= MAX_ROUNDS:
            raise PRMError(f"profile.rounds must be 1 to {MAX_ROUNDS}, not {self.rounds!r}")
        if self.rounds > 1 and self.decision == "official":
            raise PRMError("several rounds end with the forced question: profile.decision cannot be 'official'")
        if self.max_tokens < 1:
            raise PRMError(f"profile.max_tokens must be at least 1, not {self.max_tokens!r}")
        if not self.decision_temperature > 0:
            raise PRMError(f"profile.decision_temperature must be above 0, not {self.decision_temperature!r}")
        if self.bos < 0:
            raise PRMError(f"profile.bos must be 0 or more, not {self.bos!r}")


@dataclass(slots=True)
class _Thought:
    """A chain's text so far."""

    text: str = ""
    ids: list[int] = field(default_factory=list[int])
    tokens: Tokens = field(default_factory=Tokens)
    finish: ChainFinish = ChainFinish.VERDICT


@dataclass(frozen=True, slots=True)
class _Judged:
    """One chain over a solution or a prefix of it."""

    chain: Chain
    steps: list[Chain]


class ThinkPRMJudge:
    """Judges solutions with a model of the ThinkPRM family, or any other that can follow its prompt.

    Args:
        engine: the model.
        votes: independent chains per solution (parallel scaling); their scores are averaged. Each goes through all
            `profile.rounds` (sequential scaling).
        profile: the variant of the protocol.
        sampling: how chains are sampled. By default greedy for one chain, temperature 0.6 for several.
        threshold: the lowest score of a right step.
        owned: closed by `close`: the engine if it was opened for this judge.

    Raises:
        PRMError: the tokenizer or an argument does not suit the protocol.
        EngineError: the model has no chat template.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        votes: int = 1,
        profile: ThinkProfile = ThinkProfile(),
        sampling: SamplingDefaults | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        owned: AsyncExitStack | None = None,
    ) -> None:
        self.sampling = sampling or think_sampling(votes)
        check_votes(votes, self.sampling.temperature)
        self.engine = engine
        self.votes = votes
        self.profile = profile
        self.threshold = threshold
        self.name = engine.model_name
        self.capacity = engine.capacity
        self.owned = owned
        self._admission = Admission(engine.cache_tokens, engine.max_model_len)
        tokenizer = engine.tokenizer
        mark = "user-7f3a"
        rendered = tokenizer.render_chat([{"role": "user", "content": mark}], add_generation_prompt=True)
        self.opening = rendered.partition(mark)[2] + profile.suffix
        """The text between the user turn and the model's."""
        answers = [tokenizer.encode(f" {word}") for word in (Verdict.YES, Verdict.NO)]
        if profile.decision == "official":
            self._answer_lead: list[int] = []
            self._answers = [ids[-1] for ids in answers]
        else:
            self._answer_lead, self._answers = where_they_part(*answers)
        self._labels = where_they_part(tokenizer.encode("correct"), tokenizer.encode("incorrect"))
        if len({*self._answers}) < 2:
            raise PRMError(f"the tokenizer of {self.name!r} does not tell ' Yes' and ' No' apart by their last token")
        self._reserve = len(tokenizer.encode(f"\n{THINK_END}\n{QUESTION}", special=True)) + len(self._answer_lead) + 1

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges a solution; see `genprm.prms.base.PRM`."""
        check_steps(steps)
        plain = unlabelled(steps)
        lengths = range(1, len(plain) + 1) if self.profile.per_step else [len(plain)]
        size = characters_of(problem, plain)
        async with self._admission.place(size, self.votes * len(lengths)) as place:
            chains = await gather(
                self._chain(problem, plain[:n], (seed, vote), place) for n in lengths for vote in range(self.votes)
            )
        judged = [chains[start : start + self.votes] for start in range(0, len(chains), self.votes)]
        prefixes = [combine_chains([one.chain for one in votes], self.threshold) for votes in judged]
        tokens = sum((one.chain.tokens for votes in judged for one in votes), Tokens())
        if self.profile.per_step:
            return Judgement(tuple(prefixes), self.threshold, tokens, solution=prefixes[-1])
        labelled = zip(*(one.steps for one in judged[-1]), strict=True)
        return Judgement(
            tuple(self._step(chains) for chains in labelled), self.threshold, tokens, solution=prefixes[-1]
        )

    @property
    def facts(self) -> dict[str, JsonValue]:
        """See `genprm.prms.base.PRM`."""
        return model_facts(self, self.profile, self.engine, sampling=asdict(self.sampling))

    async def close(self) -> None:
        """Closes what was opened for this judge; see `genprm.prms.base.PRM`."""
        if self.owned is not None:
            await self.owned.aclose()

    def user_turn(self, problem: str, steps: Sequence[str]) -> str:
        """The text of the user turn. Problem and steps are never interpreted as parts of the template."""
        solution = "\n".join(f"Step {number}: {step}" for number, step in enumerate(unlabelled(steps), start=1)).strip()
        values = {"problem": problem, "solution": solution, "instruction": self.profile.instruction}
        if self.profile.template:
            return prompts.render_text(self.profile.template, **values)
        return prompts.render("thinkprm/user", **values)

    def prompt_ids(self, problem: str, steps: Sequence[str]) -> list[int]:
        """Token ids of the prompt."""
        tokenizer = self.engine.tokenizer
        message = {"role": "user", "content": self.user_turn(problem, steps)}
        ids = tokenizer.encode_chat([message], add_generation_prompt=True, suffix=self.profile.suffix)
        bos = tokenizer.bos_id
        if bos is None:
            return ids
        written = next((index for index, token in enumerate(ids) if token != bos), len(ids))
        return [bos] * self.profile.bos + ids[written:]

    def _step(self, chains: Sequence[Chain]) -> StepJudgement:
        step = combine_chains(chains, self.threshold)
        if step.score is None:
            return replace(step, reason="no chain labels this step")
        if all(chain.finish is ChainFinish.IMPLIED for chain in chains):
            return replace(step, reason="implied by an earlier wrong step: no chain reached this one")
        return step

    async def _chain(self, problem: str, steps: Sequence[str], seed: tuple[int, int], place: Place) -> _Judged:
        """One chain: its rounds, its decision, its labels."""
        name = chain_name(*seed, problem)
        prompt = self.prompt_ids(problem, steps)
        thought = _Thought()
        for number in range(self.profile.rounds):
            if number and not self._look_again(prompt, thought, TRIGGERS[number - 1]):
                break
            await self._think(prompt, thought, name, (*seed, len(steps), number))
        place.tokens += len(prompt) + len(thought.ids)
        labels = [] if self.profile.per_step else align_labels(thought.text, len(steps))
        step_chains = [await self._labelled(prompt, thought, label, name) for label in labels]
        if self.profile.decision == "official":
            log_odds = await self._last_decision(prompt, thought, name)
        else:
            log_odds = await self._ask(prompt, thought, name)
        if log_odds is None:
            finish = ChainFinish.REPEATED if thought.finish is ChainFinish.REPEATED else ChainFinish.NO_VERDICT
            chain = Chain(thought.text, (), None, None, None, finish, thought.tokens)
        else:
            log_odds /= self.profile.decision_temperature
            verdict = Verdict.YES if log_odds >= 0 else Verdict.NO
            chain = Chain(thought.text, (), sigmoid(log_odds), log_odds, verdict, thought.finish, thought.tokens)
        return _Judged(chain, step_chains)

    async def _think(self, prompt: list[int], thought: _Thought, name: str, where: tuple[int, ...]) -> None:
        """One round of thinking."""
        room = self.engine.max_model_len - len(prompt) - len(thought.ids) - self._reserve
        if room < 1:
            raise ContextOverflowError(
                f"{len(prompt)} tokens of prompt leave no room to think in a context of {self.engine.max_model_len}"
            )
        forced = self.profile.decision == "forced"
        done = await self.engine.generate(
            [*prompt, *thought.ids],
            Sampling(
                min(self.profile.max_tokens, room),
                self.sampling.temperature,
                self.sampling.top_p,
                self.sampling.top_k,
                (QUESTION,) if forced else (),
                call_seed(*where),
            ),
            chain=name,
        )
        self._take(thought, len(prompt), done)

    def _take(self, thought: _Thought, prompt: int, done: Completion) -> None:
        thought.tokens += Tokens(prompt + len(thought.ids), done.sampled_tokens, done.cached_tokens, requests=1)
        thought.text += done.text
        thought.ids += done.token_ids
        ends = {Finish.LENGTH: ChainFinish.DEGRADED, Finish.REPEATED: ChainFinish.REPEATED}
        thought.finish = ends.get(done.finish, ChainFinish.VERDICT)

    def _look_again(self, prompt: list[int], thought: _Thought, phrase: str) -> bool:
        """Reopens the thinking with a phrase; returns False if the context has no room for another round."""
        # In this order, as in the released class: a newline before the removed word stays.
        text = (thought.text.removesuffix(QUESTION).rstrip() + "\n\n" + phrase).replace(THINK_END, "")
        ids = self._ids_of(text, thought.ids)
        if len(prompt) + len(ids) + self._reserve >= self.engine.max_model_len:
            return False
        thought.text, thought.ids = text, ids
        return True

    async def _ask(self, prompt: list[int], thought: _Thought, name: str) -> float:
        """Asks the question outside the thinking, and reads the log-odds of its answer."""
        closed = "<think>" not in self.opening + thought.text or THINK_END in thought.text
        if not (thought.text.endswith(QUESTION) and closed):
            text = thought.text.removesuffix(QUESTION)
            tail = ("" if closed else f"{THINK_END}\n") + QUESTION
            lead = "" if text.endswith("\n") or not text else "\n"
            ids = self._ids_of(text, thought.ids) + self.engine.tokenizer.encode(lead + tail, special=True)
            thought.text, thought.ids = text + lead + tail, ids
        log_odds = await self._choose([*prompt, *thought.ids, *self._answer_lead], self._answers, name)
        thought.text += f" {Verdict.YES if log_odds >= 0 else Verdict.NO}"
        return log_odds

    async def _last_decision(self, prompt: list[int], thought: _Thought, name: str) -> float | None:
        """The log-odds at the last position whose most likely token is one of the two answers."""
        ids = thought.ids
        if not ids:
            return None
        greedy = self.sampling.temperature == 0
        likely = [] if greedy else (await self.engine.prompt_logprobs([*prompt, *ids]))[len(prompt) - 1 :]
        for index in range(len(ids) - 1, -1, -1):
            # Above 1/2 means most likely; otherwise ask the model for its most likely token.
            top = ids[index]
            if not greedy and likely[index] <= math.log(0.5):
                top = await self._top_token([*prompt, *ids[:index]], name)
            if top in self._answers:
                return await self._choose([*prompt, *ids[:index]], self._answers, name)
        return None

    async def _top_token(self, ids: list[int], name: str) -> int | None:
        done = await self.engine.generate(ids, Sampling(1), chain=name)
        return done.token_ids[0] if done.token_ids else None

    async def _labelled(self, prompt: list[int], thought: _Thought, label: WrittenLabel, name: str) -> Chain:
        """A chain's label of one step, as a separate `Chain`; its tokens are counted in the whole chain."""
        if label.kind is LabelKind.MISSING:
            return Chain("", (), None, None, None, ChainFinish.NO_VERDICT)
        finish = ChainFinish.IMPLIED if label.kind is LabelKind.IMPLIED else ChainFinish.VERDICT
        verdict = Verdict.YES if label.kind is LabelKind.CORRECT else Verdict.NO
        if self.profile.step_scores == "odds" and label.at is not None:
            lead, choices = self._labels
            ids = self._ids_of(thought.text[: label.at], thought.ids)
            log_odds = await self._choose([*prompt, *ids, *lead], choices, name)
            return Chain(label.text, (), sigmoid(log_odds), log_odds, verdict, finish)
        return Chain(label.text, (), float(label.kind is LabelKind.CORRECT), None, verdict, finish)

    async def _choose(self, ids: list[int], choices: Sequence[int], name: str) -> float:
        first, second = await self.engine.choice_logprobs(ids, choices, chain=name)
        return first - second

    def _ids_of(self, text: str, ids: Sequence[int]) -> list[int]:
        """Token ids of a text: `ids` as far as they match its beginning, then new ones."""
        tokenizer = self.engine.tokenizer
        written = tokenizer.decode(ids)
        shared = next((index for index, (a, b) in enumerate(zip(written, text, strict=False)) if a != b), None)
        head = text[: min(len(written), len(text))] if shared is None else text[:shared]
        kept = cut_at_stop(tokenizer, ids, (head,)).token_ids if head else ()
        return [*kept, *tokenizer.encode(text[len(head) :])]
