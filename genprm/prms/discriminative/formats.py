r"""The input format of each discriminative PRM, and the positions of the step scores in it.

A `Format` is all that the rest of the code needs to know about a family; a new family is one more entry of `FORMATS`.
In every family, one number is read at each position (`Head`): the log-odds that the step is right.

Untrusted text cannot forge a separator: control tokens in a problem or step are encoded as plain characters, and a
separator that is ordinary text (Math-Shepherd's `ки`) is spelled out if it is part of a step. Positions follow from
where a step was put, never from searching for a token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from genprm.engines.tokenizer import Mark, Part, Tokenizer, Trusted, Untrusted
from genprm.prms.base import PRMError
from genprm.prms.chat import chat_pieces
from genprm.prms.step_labels import unlabelled

QWEN_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
"""The system message that Qwen2.5-Math-PRM was trained with."""
SCORED = Mark("scored")
"""The mark after a step's last part: the step's score is read at the last token before it."""


@dataclass(frozen=True, slots=True)
class DiscriminativeProfile:
    """The variant of a format."""

    separator: str = "\n"
    """The text after each step for a token-classification PRM: `step_separator` in TRL. The other families have fixed
    separators."""

    def __post_init__(self) -> None:
        if not self.separator:
            raise PRMError(f"profile.separator must not be empty: {self.separator!r}")


class Head(StrEnum):
    """Where the log-odds of a step are read."""

    NEXT_TOKEN = "next-token"
    """Two tokens' logits of a causal language model: good minus bad."""
    TWO_CLASSES = "two-classes"
    """Two logits of a classification head: class 1 minus class 0."""
    VALUE = "value"
    """The output of a value head, whose sigmoid is the score."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A solution in a model's input format."""

    ids: list[int]
    positions: list[int]
    """For each step, the index of the token whose output is its score."""


Write = Callable[[Sequence[str], DiscriminativeProfile, str, Sequence[str]], Iterator[Part]]
"""Formats a solution: from the pieces of the chat template (see `chat_pieces`), the profile, the problem and the
non-blank steps to parts with `SCORED` after each step."""


@dataclass(frozen=True, slots=True)
class Format:
    """One family of discriminative PRMs."""

    family: str
    """Its name for `--prm`."""
    models: str
    """A regular expression found in the lower-case names of its released models."""
    head: Head
    write: Write
    architecture: str | None = None
    """A regular expression for the class in `config.json`, if the family has its own."""
    model_class: str = "AutoModelForCausalLM"
    """What loads it with transformers: a class of `genprm.prms.forward`, or of transformers."""
    roles: tuple[str, ...] = ()
    """The roles whose chat template pieces `write` gets."""
    bos: bool = True
    """Whether to start with a begin-of-sequence token, if the tokenizer has one. A chat template writes its own."""
    joined: bool = True
    """Whether the parts are tokenised as one text; otherwise separately."""
    tag: Trusted | Untrusted | None = None
    """The text whose last token is at every position and nowhere else, in families that have one. `Trusted` means a
    control token."""
    answers: tuple[str, str] | None = None
    """The good and the bad next token, with `Head.NEXT_TOKEN`."""
    answered: bool = False
    """Whether the good answer follows every position."""


def detect_format(config: Mapping[str, object], name: str) -> Format | None:
    """The format of a model, from its `config.json` and name; None if it belongs to none of these families.

    Args:
        config: the parsed `config.json`; empty if there is only a name.
        name: the model's id or path.
    """
    for format in FORMATS.values():
        if names_format(config, format):
            labels = config.get("id2label")
            other = format.head is Head.TWO_CLASSES and isinstance(labels, dict) and len(labels) != 2
            return None if other else format
    return next((format for format in FORMATS.values() if re.search(format.models, name.lower())), None)


def names_format(config: Mapping[str, object], format: Format) -> bool:
    """Whether a `config.json` names the format's own architecture."""
    declared = config.get("architectures")
    names = cast("list[object]", declared) if isinstance(declared, list) else []
    return format.architecture is not None and any(re.fullmatch(format.architecture, str(name)) for name in names)


class SolutionWriter:
    """A format, bound to a tokenizer.

    Args:
        format: the family's format.
        tokenizer: the model's tokenizer.
        profile: the variant of the format.

    Raises:
        PRMError: the tokenizer lacks what the format needs.
        EngineError: the tokenizer has no chat template, or it does not keep messages in order.
    """

    def __init__(
        self, format: Format, tokenizer: Tokenizer, profile: DiscriminativeProfile = DiscriminativeProfile()
    ) -> None:
        self.format = format
        self._tokenizer = tokenizer
        self._profile = profile
        self._chat = chat_pieces(tokenizer, format.roles) if format.roles else []
        self.tag = None if format.tag is None else _tag(tokenizer, format.tag)
        """The token at every position and nowhere else, in families that have one."""
        self.choices = None if format.answers is None else _choices(tokenizer, format.answers)
        """Ids of the good and the bad token, with `Head.NEXT_TOKEN`."""
        self._bos = [tokenizer.bos_id] if format.bos and tokenizer.bos_id is not None else []

    def layout(self, problem: str, steps: Sequence[str]) -> Layout:
        """Formats a solution.

        Args:
            problem: the question.
            steps: the steps, none of them blank. Surrounding white space is ignored.

        Raises:
            PRMError: the tokenizer does not keep the positions apart.
        """
        parts = self.format.write(self._chat, self._profile, problem, steps)
        marked = self._tokenizer.encode_marked(*parts, joined=self.format.joined)
        positions = [end - 1 for end in marked.ends.get(SCORED.name, [])]
        if len(positions) != len(steps):
            raise PRMError(f"the format {self.format.family!r} marks {len(positions)} positions for {len(steps)} steps")
        if self.format.answered and self.choices is not None:
            for step, position in enumerate(positions):
                if marked.ids[position + 1] != self.choices[0]:
                    raise PRMError(
                        f"the tokenizer {self._tokenizer.name!r} merges the verdict of step {step} with the text "
                        "around it"
                    )
        built = Layout(marked.ids, positions) if self.tag is None else self._tagged(marked.ids, positions, self.tag)
        return Layout(self._bos + built.ids, [position + len(self._bos) for position in built.positions])

    def _tagged(self, ids: Sequence[int], positions: Sequence[int], tag: int) -> Layout:
        """A layout in which the tag is at the positions and nowhere else."""
        for step, position in enumerate(positions):
            if ids[position] != tag:
                raise PRMError(
                    f"the tokenizer {self._tokenizer.name!r} merges the separator after step {step} with the text "
                    f"around it: token {ids[position]!r} stands where {tag!r} should"
                )
        spelling: list[int] = []
        result = Layout([], [])
        wanted = set(positions)
        for index, token in enumerate(ids):
            if index in wanted:
                result.positions.append(len(result.ids))
            elif token == tag:
                spelling = spelling or _spelled(self._tokenizer, tag)
                result.ids.extend(spelling)
                continue
            result.ids.append(token)
        return result


def _qwen(chat: Sequence[str], profile: DiscriminativeProfile, problem: str, steps: Sequence[str]) -> Iterator[Part]:
    """ChatML with `<extra_0>` after every step."""
    before_system, before_user, before_assistant, end = chat
    yield Trusted(before_system + QWEN_SYSTEM + before_user)
    yield Untrusted(problem.strip())
    yield Trusted(before_assistant)
    for step in steps:
        yield from (Untrusted(step.strip()), Trusted("<extra_0>"), SCORED)
    yield Trusted(end)


def _math_shepherd(
    chat: Sequence[str], profile: DiscriminativeProfile, problem: str, steps: Sequence[str]
) -> Iterator[Part]:
    r"""`{problem} Step 1: ... ки\nStep 2: ... ки`."""
    yield Untrusted(problem.strip())
    for number, step in enumerate(unlabelled(steps), start=1):
        yield from (Untrusted(f"{' ' if number == 1 else chr(10)}Step {number}: "), Untrusted(step))
        yield from (Untrusted(" ки"), SCORED)


def _rlhflow(chat: Sequence[str], profile: DiscriminativeProfile, problem: str, steps: Sequence[str]) -> Iterator[Part]:
    """A chat in which the user gives step after step and the assistant says `+` to each.

    The first message is problem and first step with a space between them.
    """
    before_first, before_assistant, before_user, _, end = chat
    yield from (Trusted(before_first), Untrusted(f"{problem.strip()} "))
    for number, step in enumerate(steps, start=1):
        yield from (Untrusted(step.strip()), Trusted(before_assistant), SCORED, Trusted("+"))
        yield Trusted(end if number == len(steps) else before_user)


def _skywork(chat: Sequence[str], profile: DiscriminativeProfile, problem: str, steps: Sequence[str]) -> Iterator[Part]:
    r"""`{problem}\n{step}\n{step}\n`, every line tokenised separately.

    To the model, each line is a step. The score of a step with several lines is read at the last one.
    """
    yield Untrusted(f"{problem.strip()}\n")
    for step in steps:
        for line in step.strip().split("\n"):
            yield from (Untrusted(line), Untrusted("\n"))
        yield SCORED


def _versaprm(
    chat: Sequence[str], profile: DiscriminativeProfile, problem: str, steps: Sequence[str]
) -> Iterator[Part]:
    r"""`{problem} \n\n{step} \n\n\n\n{step} \n\n\n\n`."""
    yield Untrusted(f"{problem.strip()} \n\n")
    for step in steps:
        yield from (Untrusted(step.strip()), Untrusted(" \n\n\n\n"), SCORED)


def _token_classification(
    chat: Sequence[str], profile: DiscriminativeProfile, problem: str, steps: Sequence[str]
) -> Iterator[Part]:
    """`{problem}{step}{separator}{step}{separator}`, each piece tokenised separately.

    The pieces' ids are concatenated, as in training: a separator never merges with the text before it.
    """
    yield Untrusted(problem.strip())
    for step in steps:
        yield from (Untrusted(step.strip()), Untrusted(profile.separator), SCORED)


FORMATS: dict[str, Format] = {
    format.family: format
    for format in (
        # Qwen2.5-Math-PRM-7B and -72B, Qwen2.5-Math-7B-PRM800K, and other models trained with the same code.
        Format(
            "qwen-prm",
            r"qwen2\.5-math-(prm|7b-prm800k)",
            Head.TWO_CLASSES,
            _qwen,
            architecture="Qwen2ForProcessRewardModel",
            model_class="Qwen2ForProcessRewardModel",
            roles=("system", "user", "assistant"),
            bos=False,
            tag=Trusted("<extra_0>"),
        ),
        # peiyi9979/math-shepherd-mistral-7b-prm
        Format(
            "math-shepherd",
            r"(?=.*math-shepherd).*prm",
            Head.NEXT_TOKEN,
            _math_shepherd,
            tag=Untrusted(" ки"),
            answers=("+", "-"),
        ),
        # RLHFlow/Llama3.1-8B-PRM-Mistral-Data and -Deepseek-Data
        Format(
            "rlhflow",
            r"rlhflow/.*prm|llama3\.1-8b-prm-(mistral|deepseek)",
            Head.NEXT_TOKEN,
            _rlhflow,
            roles=("user", "assistant", "user", "assistant"),
            bos=False,
            answers=("+", "-"),
            answered=True,
        ),
        # Skywork-o1-Open-PRM-Qwen-2.5-1.5B and -7B
        Format(
            "skywork-prm",
            "skywork-o1-open-prm",
            Head.VALUE,
            _skywork,
            architecture="Qwen2ForPrmModel",
            model_class="Qwen2ForPrmModel",
            joined=False,
        ),
        # UW-Madison-Lee-Lab/VersaPRM
        Format("versaprm", "versaprm", Head.NEXT_TOKEN, _versaprm, tag=Untrusted(" \n\n\n\n"), answers=("+", "-")),
        # Two labels on the separator after each step, as TRL's PRMTrainer and PURE train them.
        Format(
            "token-classification",
            "pure-prm",
            Head.TWO_CLASSES,
            _token_classification,
            architecture=".*ForTokenClassification",
            model_class="AutoModelForTokenClassification",
            joined=False,
        ),
    )
}
"""The formats by family name."""


def _tag(tokenizer: Tokenizer, text: Trusted | Untrusted) -> int:
    ids = tokenizer.encode(text, special=isinstance(text, Trusted))
    if isinstance(text, Trusted) and len(ids) != 1:
        raise PRMError(f"the tokenizer {tokenizer.name!r} has no token {str(text)!r}, at which the format reads scores")
    return ids[-1]


def _choices(tokenizer: Tokenizer, answers: tuple[str, str]) -> tuple[int, int]:
    """The good and the bad token."""
    good, bad = (tokenizer.encode(answer)[-1] for answer in answers)
    if good == bad:
        raise PRMError(f"the tokenizer {tokenizer.name!r} writes {answers[0]!r} and {answers[1]!r} with one token")
    return good, bad


def _spelled(tokenizer: Tokenizer, tag: int) -> list[int]:
    """A token's text as ids of its characters."""
    ids = [token for character in tokenizer.decode([tag]) for token in tokenizer.encode(character)]
    if tag in ids:
        raise PRMError(
            f"a step contains the separator {tokenizer.decode([tag])!r}, and the tokenizer {tokenizer.name!r} has no "
            "other encoding for it: remove it from the step"
        )
    return ids
