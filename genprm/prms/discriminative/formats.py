r"""How each discriminative PRM wants a solution written, and where in it the scores of the steps stand.

An adapter is a pure function from text to token ids and positions: it needs the model's tokenizer and nothing else.
What is read at a position (`Head`) is one number in every family, the log-odds of the step being right.

Text that nobody trusts cannot forge a separator: control tokens in a problem or step are encoded as the characters they
are made of, and a separator that is ordinary text (Math-Shepherd's `ки`) is spelled out where it is part of a step.
Positions come from where a step was put, never from searching for a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError
from genprm.prms.chat import chat_pieces
from genprm.prms.step_labels import unlabelled

QWEN_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
"""The system message that Qwen2.5-Math-PRM was trained with."""


class Family(StrEnum):
    """The discriminative PRMs that are known."""

    QWEN_PRM = "qwen-prm"
    """Qwen2.5-Math-PRM-7B and -72B, Qwen2.5-Math-7B-PRM800K, and what was trained with the same code."""
    MATH_SHEPHERD = "math-shepherd"
    """peiyi9979/math-shepherd-mistral-7b-prm."""
    RLHFLOW = "rlhflow"
    """RLHFlow/Llama3.1-8B-PRM-Mistral-Data and -Deepseek-Data."""
    SKYWORK = "skywork-prm"
    """Skywork-o1-Open-PRM-Qwen-2.5-1.5B and -7B."""
    VERSAPRM = "versaprm"
    """UW-Madison-Lee-Lab/VersaPRM."""
    TOKEN_CLASSIFICATION = "token-classification"
    """Two labels on the separator after each step, as TRL's PRMTrainer and PURE train them."""


@dataclass(frozen=True, slots=True)
class DiscriminativeProfile:
    """The variant of a format."""

    separator: str = "\n"
    """What is written after each step for a token-classification PRM: `step_separator` of TRL. The other families have
    separators of their own."""


class Head(StrEnum):
    """What the log-odds of a step are read from."""

    NEXT_TOKEN = "next-token"
    """Two tokens' logits of a causal language model: good minus bad."""
    TWO_CLASSES = "two-classes"
    """Two logits of a classification head: class 1 minus class 0."""
    VALUE = "value"
    """The one number of a value head, whose sigmoid is the score."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A solution as a model wants to read it."""

    ids: list[int]
    positions: list[int]
    """For each step, the index of the token whose output is its score."""


class Adapter(Protocol):
    """One family's format, bound to a tokenizer."""

    head: Head
    choices: tuple[int, int] | None
    """Ids of the good and the bad token, with `Head.NEXT_TOKEN`."""
    tag: int | None
    """The token that stands at every position and nowhere else, in families that have one."""

    def layout(self, problem: str, steps: Sequence[str]) -> Layout:
        """Writes a solution down.

        Args:
            problem: the question.
            steps: the steps, none of them blank. White space around them does not count.

        Raises:
            PRMError: the tokenizer does not keep the positions apart.
        """
        ...


def detect(config: Mapping[str, object], name: str) -> Family | None:
    """The family of a model, from its `config.json` and its name; None when it is none of these.

    Args:
        config: the parsed `config.json`; may be empty, where there is only a name.
        name: the model's id or path.
    """
    declared = config.get("architectures")
    architectures = [str(item) for item in declared] if isinstance(declared, list) else []
    lower = name.lower()
    if "Qwen2ForProcessRewardModel" in architectures:
        return Family.QWEN_PRM
    if "Qwen2ForPrmModel" in architectures or "skywork-o1-open-prm" in lower:
        return Family.SKYWORK
    if any(item.endswith("ForTokenClassification") for item in architectures):
        labels = config.get("id2label")
        return Family.TOKEN_CLASSIFICATION if not isinstance(labels, dict) or len(labels) == 2 else None
    if re.search(r"qwen2\.5-math-(prm|7b-prm800k)", lower):
        return Family.QWEN_PRM
    if "math-shepherd" in lower and "prm" in lower:
        return Family.MATH_SHEPHERD
    if re.search(r"rlhflow/.*prm|llama3\.1-8b-prm-(mistral|deepseek)", lower):
        return Family.RLHFLOW
    if "versaprm" in lower:
        return Family.VERSAPRM
    if "pure-prm" in lower:
        return Family.TOKEN_CLASSIFICATION
    return None


def adapter_for(family: Family, tokenizer: Tokenizer, *, separator: str = "\n") -> Adapter:
    r"""Binds a family to a tokenizer.

    Args:
        family: which format.
        tokenizer: the model's.
        separator: what `Family.TOKEN_CLASSIFICATION` writes after each step: `step_separator` of TRL.

    Raises:
        PRMError: the tokenizer lacks what the format needs.
        EngineError: the tokenizer has no chat template, or it does not keep messages in order.
    """
    match family:
        case Family.QWEN_PRM:
            return QwenPRM(tokenizer)
        case Family.MATH_SHEPHERD:
            return MathShepherd(tokenizer)
        case Family.RLHFLOW:
            return RLHFlow(tokenizer)
        case Family.SKYWORK:
            return Skywork(tokenizer)
        case Family.VERSAPRM:
            return VersaPRM(tokenizer)
        case Family.TOKEN_CLASSIFICATION:
            return TokenClassification(tokenizer, separator)


class QwenPRM:
    """ChatML with `<extra_0>` after every step; a two-class head is read there."""

    head: Head = Head.TWO_CLASSES
    choices: tuple[int, int] | None = None
    tag: int | None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        ids = tokenizer.encode("<extra_0>", special=True)
        if len(ids) != 1:
            raise PRMError(
                f"the tokenizer {tokenizer.name!r} has no token '<extra_0>', which Qwen2.5-Math-PRM is read at"
            )
        self.tag = ids[0]
        self._chat = chat_pieces(tokenizer, ("system", "user", "assistant"))

    def layout(self, problem: str, steps: Sequence[str]) -> Layout:
        """Writes a solution down: see `Adapter`."""
        before_system, before_user, before_assistant, end = self._chat
        parts = [(before_system + QWEN_SYSTEM + before_user, True), (problem.strip(), False), (before_assistant, True)]
        for step in steps:
            parts += [(step.strip(), False), ("<extra_0>", True)]
        marked = self._tokenizer.encode_marked(*parts, (end, True))
        return _tagged(self._tokenizer, marked.ids, [stop - 1 for stop in marked.ends[4:-1:2]], self.tag)


class MathShepherd:
    r"""`{problem} Step 1: ... ки\nStep 2: ... ки`; the next token is `+` or `-` at every `ки`."""

    head: Head = Head.NEXT_TOKEN
    choices: tuple[int, int] | None
    tag: int | None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tag = tokenizer.encode(" ки")[-1]
        self.choices = _choices(tokenizer, tokenizer.encode("+ -"))

    def layout(self, problem: str, steps: Sequence[str]) -> Layout:
        """Writes a solution down: see `Adapter`."""
        parts = [(f"{problem.strip()} ", False)]
        for number, step in enumerate(unlabelled(steps), start=1):
            parts += [(f"Step {number}: ", False), (step, False), (" ки", False), ("\n", False)]
        marked = self._tokenizer.encode_marked(*parts[:-1])
        positions = [stop - 1 for stop in marked.ends[3::4]]
        return _tagged(self._tokenizer, marked.ids, positions, self.tag, bos=True)


class RLHFlow:
    """A chat in which the user gives step after step and the assistant says `+` to each; the next token there is read.

    The first message is problem and first step with a space between them.
    """

    head: Head = Head.NEXT_TOKEN
    choices: tuple[int, int] | None
    tag: int | None = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        good, bad = tokenizer.encode("+"), tokenizer.encode("-")
        self.choices = _choices(tokenizer, [good[-1], bad[-1]])
        self._chat = chat_pieces(tokenizer, ("user", "assistant", "user", "assistant"))

    def layout(self, problem: str, steps: Sequence[str]) -> Layout:
        """Writes a solution down: see `Adapter`."""
        before_first, before_assistant, before_user, _, end = self._chat
        parts = [(before_first, True), (f"{problem.strip()} ", False)]
        for step in steps:
            parts += [(step.strip(), False), (before_assistant, True), ("+", True), (before_user, True)]
        marked = self._tokenizer.encode_marked(*parts[:-1], (end, True))
        positions = [stop - 1 for stop in marked.ends[3:-1:4]]
        assert self.choices is not None
        for step, position in enumerate(positions):
            if marked.ids[position + 1] != self.choices[0]:
                raise PRMError(
                    f"the tokenizer {self._tokenizer.name!r} merges the verdict of step {step} with the text around it"
                )
        return Layout(marked.ids, positions)


class Skywork:
    r"""`{bos}{problem}\n{step}\n{step}\n`, every line encoded by itself; a value head is read at the newline.

    To the model each line is a step. A step of several lines is read at its last.
    """

    head: Head = Head.VALUE
    choices: tuple[int, int] | None = None
    tag: int | None = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._newline = tokenizer.encode("\n")[-1]

    def layout(self, problem: str, steps: Sequence[str]) -> Layout:
        """Writes a solution down: see `Adapter`."""
        encode = self._tokenizer.encode
        ids = _bos(self._tokenizer) + encode(f"{problem.strip()}\n")
        positions: list[int] = []
        for step in steps:
            for line in step.strip().split("\n"):
                ids += [*encode(line), self._newline] if line else [self._newline]
            positions.append(len(ids) - 1)
        return Layout(ids, positions)


class VersaPRM:
    r"""`{problem} \n\n{step} \n\n\n\n{step} \n\n\n\n`; the next token is `+` or `-` at every run of four newlines."""

    head: Head = Head.NEXT_TOKEN
    choices: tuple[int, int] | None
    tag: int | None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tag = tokenizer.encode(" \n\n\n\n")[-1]
        self.choices = _choices(tokenizer, [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]])

    def layout(self, problem: str, steps: Sequence[str]) -> Layout:
        """Writes a solution down: see `Adapter`."""
        parts = [(f"{problem.strip()} \n\n", False)]
        for step in steps:
            parts += [(step.strip(), False), (" \n\n\n\n", False)]
        marked = self._tokenizer.encode_marked(*parts)
        return _tagged(self._tokenizer, marked.ids, [stop - 1 for stop in marked.ends[2::2]], self.tag, bos=True)


class TokenClassification:
    """`{bos}{problem}{step}{separator}{step}{separator}`, each piece encoded by itself; two labels at the separator.

    The ids of the pieces are put together, as in training: a separator never merges with the text before it.
    """

    head: Head = Head.TWO_CLASSES
    choices: tuple[int, int] | None = None
    tag: int | None = None

    def __init__(self, tokenizer: Tokenizer, separator: str = "\n") -> None:
        self._tokenizer = tokenizer
        self._separator = tokenizer.encode(separator)
        if not self._separator:
            raise PRMError(f"the step separator must not be empty: {separator!r}")

    def layout(self, problem: str, steps: Sequence[str]) -> Layout:
        """Writes a solution down: see `Adapter`."""
        ids = _bos(self._tokenizer) + self._tokenizer.encode(problem.strip())
        positions: list[int] = []
        for step in steps:
            ids += self._tokenizer.encode(step.strip()) + self._separator
            positions.append(len(ids) - 1)
        return Layout(ids, positions)


def _bos(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.bos_id is None else [tokenizer.bos_id]


def _choices(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, int]:
    """The good and the bad token."""
    if len(ids) != 2 or ids[0] == ids[1]:
        raise PRMError(f"the tokenizer {tokenizer.name!r} has no two tokens for '+' and '-': it gives {list(ids)!r}")
    return ids[0], ids[1]


def _tagged(
    tokenizer: Tokenizer, ids: Sequence[int], positions: Sequence[int], tag: int | None, *, bos: bool = False
) -> Layout:
    """A layout in which the tag stands at the positions and nowhere else."""
    assert tag is not None
    for step, position in enumerate(positions):
        if ids[position] != tag:
            raise PRMError(
                f"the tokenizer {tokenizer.name!r} merges the separator after step {step} with the text around it: "
                f"token {ids[position]!r} stands where {tag!r} should"
            )
    spelling: list[int] = []
    result = Layout(_bos(tokenizer) if bos else [], [])
    wanted = set(positions)
    for index, token in enumerate(ids):
        if index in wanted:
            result.positions.append(len(result.ids))
        elif token == tag:
            spelling = spelling or _spelled(tokenizer, tag)
            result.ids.extend(spelling)
            continue
        result.ids.append(token)
    return result


def _spelled(tokenizer: Tokenizer, tag: int) -> list[int]:
    """The text of a token as the ids of its characters."""
    ids = [token for character in tokenizer.decode([tag]) for token in tokenizer.encode(character)]
    if tag in ids:
        raise PRMError(
            f"a step holds the separator {tokenizer.decode([tag])!r}, and the tokenizer {tokenizer.name!r} has no "
            "other way to write it: take it out of the step"
        )
    return ids
