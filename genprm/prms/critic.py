r"""The critic: any chat model as judge, asked for the index of the first wrong paragraph.

The protocol is ProcessBench's for language models as critics (Zheng et al., arXiv 2412.06559): the steps are in
numbered tags, the answer is the last `\boxed{...}`, and the most frequent of several answers counts.

`Judgement.first_error_vote` is that answer. A step's score is the share of chains that find no error up to and
including it, so that scores can rank and be calibrated. With several chains, the first step below the threshold may
differ from the one that most chains name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from genprm import prompts
from genprm.concurrency import gather
from genprm.engines.base import Engine, Finish, Sampling
from genprm.engines.errors import ContextOverflowError
from genprm.prms.base import PRMError, model_facts
from genprm.prms.calls import call_seed, chain_name, check_steps, check_votes
from genprm.prms.genprm.protocol import SamplingDefaults
from genprm.types import DEFAULT_THRESHOLD, Chain, ChainFinish, Judgement, Tokens, Verdict, combine_chains

if TYPE_CHECKING:
    from pydantic import JsonValue

GREEDY = SamplingDefaults(0.0, 1.0, 0)
VOTING = SamplingDefaults(1.0, 0.9, 0)
"""ProcessBench's sampling of several chains. (For Qwen2.5-Math: 0.7, 0.8, 20.)"""

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_INDEX = re.compile(
    r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\s*(?:<?paragraph[ _]?)?\s*([+-]?\s?[0-9]{1,4})\s*>?\s*\}?\.?",
    re.IGNORECASE,
)


def critic_sampling(votes: int) -> SamplingDefaults:
    """The default sampling: greedy for one chain, `VOTING` for several."""
    return GREEDY if votes == 1 else VOTING


@dataclass(frozen=True, slots=True)
class CriticProfile:
    """The variant of the protocol."""

    template: str = ""
    """A Jinja template of the user turn with the variables `problem` and `steps`. Empty means ProcessBench's."""
    max_tokens: int = 8192
    """Longest answer (ProcessBench: 8192, and 32768 for reasoning models), limited to the rest of the context."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise PRMError(f"profile.max_tokens must be at least 1, not {self.max_tokens!r}")


def find_index(text: str) -> int | None:
    r"""The index in the last `\boxed{...}` of an answer; None without one, or when it is not an index."""
    boxes = _BOXED.findall(text)
    if not boxes:
        return None
    match = _INDEX.fullmatch(boxes[-1].strip().replace("\u2212", "-"))
    if match is None:
        return None
    index = int(match[1].replace(" ", ""))
    return index if index >= -1 else None


class Critic:
    """Judges solutions with a chat model.

    Args:
        engine: the model.
        votes: independent chains per solution.
        profile: the variant of the protocol.
        sampling: how chains are sampled. By default greedy for one chain, temperature 1 and top-p 0.9 for several.
        threshold: the lowest score of a right step.
        owned: closed by `close`: the engine if it was opened for this judge.

    Raises:
        PRMError: the arguments contradict each other.
        EngineError: the model has no chat template.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        votes: int = 1,
        profile: CriticProfile = CriticProfile(),
        sampling: SamplingDefaults | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        owned: AsyncExitStack | None = None,
    ) -> None:
        self.sampling = sampling or critic_sampling(votes)
        check_votes(votes, self.sampling.temperature)
        self.engine = engine
        self.votes = votes
        self.profile = profile
        self.threshold = threshold
        self.name = engine.model_name
        self.capacity = engine.capacity
        self.owned = owned
        self._prompt("", [""])  # fails here, not at every row, for a model without a chat template

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges a solution; see `genprm.prms.base.PRM`."""
        check_steps(steps)
        answers = await gather(self._chain(problem, steps, seed, vote) for vote in range(self.votes))
        named = [index for _, index in answers if index is not None]
        by_step = [
            combine_chains([_about(step, index) for _, index in answers], self.threshold) for step in range(len(steps))
        ]
        if not named:
            ends = sorted({chain.finish.value for chain, _ in answers})
            reason = f"no chain names a paragraph of the solution, or -1 ({', '.join(ends)})"
            by_step = [replace(step, reason=reason) for step in by_step]
        return Judgement(
            tuple(by_step),
            self.threshold,
            sum((chain.tokens for chain, _ in answers), Tokens()),
            solution=combine_chains([chain for chain, _ in answers], self.threshold),
            # Of equally frequent answers the first counts, as in the released evaluation.
            first_error_vote=Counter(named).most_common(1)[0][0] if named else None,
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
        """The text of the user turn."""
        if self.profile.template:
            return prompts.render_text(self.profile.template, problem=problem, steps=list(steps))
        return prompts.render("critic/user", problem=problem, steps=list(steps))

    def _prompt(self, problem: str, steps: Sequence[str]) -> list[int]:
        message = {"role": "user", "content": self.user_turn(problem, steps)}
        return self.engine.tokenizer.encode_chat([message], add_generation_prompt=True)

    async def _chain(self, problem: str, steps: Sequence[str], seed: int, vote: int) -> tuple[Chain, int | None]:
        prompt = self._prompt(problem, steps)
        room = self.engine.max_model_len - len(prompt)
        if room < 1:
            raise ContextOverflowError(
                f"{len(prompt)} tokens of prompt leave no room to answer in a context of {self.engine.max_model_len}"
            )
        sampling = self.sampling
        done = await self.engine.generate(
            prompt,
            Sampling(
                min(self.profile.max_tokens, room),
                sampling.temperature,
                sampling.top_p,
                sampling.top_k,
                seed=call_seed(seed, vote),
            ),
            chain=chain_name(seed, vote, problem),
        )
        tokens = Tokens(len(prompt), done.sampled_tokens, done.cached_tokens, requests=1)
        index = find_index(done.text)
        if index is None or index >= len(steps):
            repeated = done.finish is Finish.REPEATED
            finish = ChainFinish.REPEATED if repeated else ChainFinish.NO_VERDICT
            return Chain(done.text, (), None, None, None, finish, tokens), None
        right = index == -1
        verdict = Verdict.YES if right else Verdict.NO
        return Chain(done.text, (), float(right), None, verdict, ChainFinish.VERDICT, tokens), index


def _about(step: int, index: int | None) -> Chain:
    """The verdict about one step of a chain that named `index`."""
    if index is None:
        return Chain("", (), None, None, None, ChainFinish.NO_VERDICT)
    right = index == -1 or step < index
    finish = ChainFinish.IMPLIED if not right and step > index else ChainFinish.VERDICT
    return Chain("", (), float(right), None, Verdict.YES if right else Verdict.NO, finish)
