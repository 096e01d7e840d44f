"""Replays a judge's recorded conversation through the judge itself.

Training must see the token ids that inference sees. So the judge itself builds them: it runs over an engine that
answers with the recorded text and a sandbox that answers with the recorded output, and what it sent and received is
the training sequence. So the protocol is implemented only once.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from genprm.engines.base import Completion, Finish, Sampling
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.code_blocks import SHOWN
from genprm.sandbox import Result, Status

IGNORE = -100
"""The label of a token outside the loss, as in PyTorch's cross-entropy and all trainers."""
NO_LIMIT = 1 << 30


class ReplayError(RuntimeError):
    """The recording differs from what this judge would request. The message says where."""


@dataclass(frozen=True, slots=True)
class Question:
    """A position where the judge read the probabilities of a few tokens."""

    at: int
    """Index of the queried token in the sequence."""
    choices: tuple[int, ...]


@dataclass(slots=True)
class Recorded:
    """Token ids in the order in which they were sent and received."""

    ids: list[int] = field(default_factory=list[int])
    labels: list[int] = field(default_factory=list[int])
    """The id where the model wrote it, `IGNORE` elsewhere."""
    questions: list[Question] = field(default_factory=list[Question])


class ReplayEngine:
    """Answers each generation with the recorded text, cut at the judge's own stop strings.

    Args:
        tokenizer: tokenizer of the model to be trained.
        special: control strings that the model writes as one token, such as `</think>`.
    """

    def __init__(self, tokenizer: Tokenizer, special: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.kind = "replay"
        self.model_name = "replay"
        self.max_model_len = NO_LIMIT
        self.capacity = 1
        self.cache_tokens: int | None = None
        self.sequences: list[Recorded] = []
        """One sequence, unless the judge shows earlier turns in other tokens than they were written in."""
        self.left = ""
        """The rest of the turn, not yet requested by the judge."""
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        self._forced: tuple[str, ...] = ()

    def expect(self, text: str, forced: Sequence[str] = ()) -> None:
        """Sets the text of the next generations.

        Args:
            text: the rest of the turn.
            forced: texts that the judge may put before a generation; one that comes next in `text` is skipped.
        """
        self.left, self._forced = text, tuple(forced)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        """Returns the recorded text up to the first stop string. See `Engine.generate`."""
        del chain
        lead = next((lead for lead in self._forced if self.left.startswith(lead)), "")
        self.left = self.left[len(lead) :]
        ends = [(at + len(stop), stop) for stop in sampling.stop if (at := self.left.find(stop)) >= 0]
        end, stop = min(ends) if ends else (len(self.left), None)
        if end == 0:
            raise ReplayError("the judge asks for more than was written: a part of the turn's layout is missing")
        text, self.left = self.left[:end], self.left[end:]
        ids = self._encode(text)
        if len(ids) > sampling.max_tokens:
            raise ReplayError(f"a part of {len(ids)} tokens is longer than the {sampling.max_tokens} it may have")
        self._record(prompt_ids, ids)
        finish = Finish.EOS if stop is None else Finish.STOP
        return Completion(text, tuple(ids), finish, stop, sampled_tokens=len(ids))

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        """Records the position; all choices are equally likely."""
        del chain
        last = self.sequences[-1].ids if self.sequences else []
        shared = min(len(prompt_ids), len(last))
        # If a token spans the position of the query, the judge queries other ids than those it continues from: a query
        # about the text, not about this sequence.
        if list(prompt_ids[:shared]) == last[:shared]:
            self._record(prompt_ids, ()).questions.append(Question(len(prompt_ids), tuple(choices)))
        return [0.0 for _ in choices]

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Not supported: no replayed judge calls this."""
        raise ReplayError("this judge reads the probabilities of whole texts: there is nothing to replay")

    async def close(self) -> None:
        """Does nothing."""

    def write(self, ids: Sequence[int], *, learned: bool) -> None:
        """Adds ids to the end of the sequence."""
        recorded = self.sequences[-1]
        recorded.ids += ids
        recorded.labels += ids if learned else [IGNORE] * len(ids)

    def _record(self, prompt: Sequence[int], received: Sequence[int]) -> Recorded:
        last = self.sequences[-1] if self.sequences else None
        if last is not None and list(prompt) == last.ids[: len(prompt)]:
            known = last  # a query about existing text, or the same prompt as before
            if received and len(prompt) < len(last.ids):
                raise ReplayError("the judge dropped what was written and asked again")
        elif last is not None and list(prompt[: len(last.ids)]) == last.ids:
            known = last
        else:
            known = Recorded()
            self.sequences.append(known)
        new = list(prompt[len(known.ids) :])
        known.ids += [*new, *received]
        known.labels += [*([IGNORE] * len(new)), *received]
        return known

    def _encode(self, text: str) -> list[int]:
        """Ids of the model's text. Only the control strings in `special` become control tokens."""
        if self._special is None:
            return self.tokenizer.encode(text)
        ids: list[int] = []
        position = 0
        for found in self._special.finditer(text):
            ids += self.tokenizer.encode(text[position : found.start()]) if found.start() > position else []
            ids += self.tokenizer.encode(found.group(), special=True)
            position = found.end()
        return ids + (self.tokenizer.encode(text[position:]) if position < len(text) else [])


class ReplaySession:
    """Answers a snippet with the next recorded output of the turn."""

    def __init__(self, engine: ReplayEngine) -> None:
        self._engine = engine

    async def run(self, code: str) -> Result:
        """Returns the recorded output. See `genprm.sandbox.Session.run`."""
        shown = SHOWN.match(self._engine.left)
        if shown is None:
            raise ReplayError(f"no output follows the code {code[:60]!r}: run it first")
        self._engine.left = self._engine.left[shown.end() :]
        return Result(Status.OK, shown.group(1), None, 0.0, 0)


class ReplaySandbox:
    """Opens sessions that return recorded output."""

    def __init__(self, engine: ReplayEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[ReplaySession]:
        """One session. See `genprm.sandbox.Sandbox.session`."""
        yield ReplaySession(self._engine)
