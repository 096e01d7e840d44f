r"""A teacher reviews a solution paragraph by paragraph; its code runs while it writes.

GenPRM, arXiv 2504.00891, section 3.2: the review has `<analyze>` and `<verify>` for each paragraph, code runs as soon
as its block is closed, and the teacher ends with the number of the first wrong paragraph. The teacher sees neither the
labels nor the reference answer.

There are two teachers: any chat model behind an engine, and `generator`, which knows the truth about the generated word
problems and writes rationales for them by rule. Data sets name the teacher of every row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from genprm import prompts
from genprm.data.word_problems import find_problem, first_error, read_equations
from genprm.engines.base import Engine, Sampling
from genprm.prms.code_blocks import code_output, last_block
from genprm.prms.genprm.protocol import FENCE_END
from genprm.sandbox import Sandbox, Session

GENERATOR = "generator"
"""Name of the teacher for generated word problems."""
MOST_SNIPPETS = 64
"""Most code blocks that are run in one review."""
OUTPUT_CHARS = 2000
_THOUGHT_END = "</think>"
_HEADING = re.compile(r"^### Paragraph (\d+)\s*$", re.MULTILINE)
_PARTS = re.compile(r"<analyze>\s*(.*?)\s*</analyze>\s*<verify>\s*(.*?)\s*</verify>", re.DOTALL)
_LABEL = re.compile(r"^Step \d+: *")
_INDEX = re.compile(r"\{\s*(-?\d+)\s*\}?")


class TeacherError(RuntimeError):
    """The teacher cannot review this solution."""


@dataclass(frozen=True, slots=True)
class StepCritique:
    """The review of one paragraph."""

    analysis: str
    verification: str
    """Everything from the first code block on, with the output of every block."""


@dataclass(frozen=True, slots=True)
class Review:
    """The review of a solution."""

    critiques: tuple[StepCritique | None, ...]
    """One per paragraph; None if the teacher did not follow the layout."""
    first_error: int | None
    """First wrong step, 0-based; -1 for none. None without a conclusion that names a paragraph."""
    text: str
    snippets: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of snippets by status."""
    generated: int = 0
    """Generated tokens."""


class Teacher(Protocol):
    """Reviews solutions."""

    name: str

    async def review(self, problem: str, steps: Sequence[str], *, identity: str | None, seed: int) -> Review:
        """Reviews one solution.

        Raises:
            TeacherError: the teacher cannot review this solution.
            EngineError: the engine failed.
            SandboxError: the sandbox itself broke.
        """
        ...


class ModelTeacher:
    """A chat model as teacher.

    Args:
        engine: the model.
        box: the sandbox that runs its code.
        temperature: sampling temperature. This and the other sampling settings are the paper's for QwQ-32B.
        max_tokens: limit for a whole review.
        verdicts: number of samples of the conclusion; the most frequent one counts.
    """

    def __init__(
        self, engine: Engine, box: Sandbox, *, temperature: float = 0.6, max_tokens: int = 16_384, verdicts: int = 4
    ) -> None:
        self.name = engine.model_name
        self._engine = engine
        self._box = box
        self._temperature, self._top_p, self._top_k = temperature, 0.95, 40
        self._max_tokens = max_tokens
        self._verdicts = verdicts

    async def review(self, problem: str, steps: Sequence[str], *, identity: str | None, seed: int) -> Review:
        """Reviews a solution; see `Teacher`."""
        del identity
        bare = [_LABEL.sub("", step) for step in steps]
        messages = [
            {"role": "system", "content": prompts.render("teacher/system")},
            {"role": "user", "content": prompts.render("teacher/user", problem=problem, steps=bare)},
        ]
        tokenizer = self._engine.tokenizer
        rendered = tokenizer.render_chat(messages, True)
        opening = prompts.render("teacher/opening")
        # The chat templates of some reasoning models open the thought themselves.
        suffix = opening if rendered.rstrip().endswith("<think>") else f"<think>\n{opening}"
        ids = tokenizer.encode_chat(messages, True, suffix)
        chain = f"review {seed} {problem[:40]} {len(ids)}"
        text, generated, statuses = opening, 0, Counter[str]()
        async with self._box.session() as session:
            for turn in count():
                left = self._max_tokens - generated
                if left < 1:
                    break
                done = await self._engine.generate(
                    ids, self._sampling(left, (FENCE_END, _THOUGHT_END), seed + turn), chain=chain
                )
                generated += done.sampled_tokens
                text += done.text
                ids = [*ids, *done.token_ids]
                if done.stop != FENCE_END or statuses.total() >= MOST_SNIPPETS:
                    break
                if not _block_just_closed(text):
                    continue  # the fence opened a block that is not Python
                said = await _run(session, text, statuses)
                text += said
                ids += tokenizer.encode(said)
        text = text.removesuffix(_THOUGHT_END)
        cut = text.rfind("</verify>")
        conclusion = prompts.render("teacher/conclusion")
        if cut >= 0:
            text = text[: cut + len("</verify>")]
            base = tokenizer.encode_chat(messages, True, suffix + text.removeprefix(opening) + conclusion)
            found = Counter[int]()
            for number in range(self._verdicts):
                end = await self._engine.generate(base, self._sampling(16, ("}",), seed + 1000 + number), chain=chain)
                generated += end.sampled_tokens
                if match := _INDEX.search(end.text):
                    found[int(match[1])] += 1
            index = found.most_common(1)[0][0] if found else None
        else:
            index = None
        # The teacher numbers paragraphs from 1; steps are numbered from 0.
        named = -1 if index == -1 else index - 1 if index is not None and 1 <= index <= len(steps) else None
        return Review(read_critiques(text, len(steps)), named, text, dict(statuses), generated)

    def _sampling(self, tokens: int, stop: tuple[str, ...], seed: int) -> Sampling:
        return Sampling(
            tokens, temperature=self._temperature, top_p=self._top_p, top_k=self._top_k, stop=stop, seed=seed
        )


class GeneratorTeacher:
    """Writes rationales for generated word problems by rule, from the known truth. Its code really runs.

    Args:
        box: the sandbox that runs the code.
    """

    name = GENERATOR

    def __init__(self, box: Sandbox) -> None:
        self._box = box

    async def review(self, problem: str, steps: Sequence[str], *, identity: str | None, seed: int) -> Review:
        """Reviews a solution; see `Teacher`. The same solution always gets the same review.

        Raises:
            TeacherError: the problem is not a generated one.
        """
        del seed
        made = find_problem(identity, problem)
        if made is None:
            raise TeacherError(
                f"the teacher {GENERATOR!r} reviews only the word problems of `--generate`, not {identity!r}"
            )
        wrong = first_error(made, steps)
        reviewed = steps if wrong < 0 else steps[: wrong + 1]
        critiques: list[StepCritique | None] = []
        statuses = Counter[str]()
        text = ""
        async with self._box.session() as session:
            for index, step in enumerate(reviewed):
                equations = read_equations(step)
                claims = " and ".join(f"{left} = {value}" for left, value in equations)
                analysis = f"The paragraph says {claims}." if claims else "The paragraph has no calculation to check."
                code = "".join(f"value = {left}\nprint(value, value == {value})\n" for left, value in equations)
                code = code or 'print("nothing to check")\n'
                block = f"```python\n{code}```\n"
                block += await _run(session, block, statuses)
                sums = all(holds(left, value) for left, value in equations)
                if index != wrong:
                    remark = "Every check is True, and this is what the problem asks for, so the paragraph is correct."
                elif sums:
                    remark = "The sums are right, but this is not what the problem asks for, so the paragraph is wrong."
                else:
                    remark = "A check is False, so the paragraph is wrong."
                critiques.append(StepCritique(analysis, f"{block}{remark}"))
                text += f"### Paragraph {index + 1}\n<analyze>\n{analysis}\n</analyze>\n"
                text += f"<verify>\n{block}{remark}\n</verify>\n"
        critiques += [None] * (len(steps) - len(critiques))
        return Review(tuple(critiques), wrong, text, dict(statuses))


def read_critiques(text: str, steps: int) -> tuple[StepCritique | None, ...]:
    """Parses a review: one critique per paragraph, None if a paragraph's review has another layout."""
    found: dict[int, StepCritique] = {}
    headings = list(_HEADING.finditer(text))
    for place, heading in enumerate(headings):
        end = headings[place + 1].start() if place + 1 < len(headings) else len(text)
        parts = _PARTS.search(text, heading.end(), end)
        number = int(heading[1])
        if parts is None or number in found:
            continue
        # The training layout has its own lead-in before the first block.
        start = parts[2].find("```python")
        found[number] = StepCritique(parts[1], parts[2][start:] if start >= 0 else parts[2])
    return tuple(found.get(number) for number in range(1, steps + 1))


def to_turn(paragraph: int, critique: StepCritique, *, correct: bool) -> str:
    """Renders a critique as an assistant turn in GenPRM's training layout.

    Args:
        paragraph: number of the paragraph, 1-based.
        critique: a critique with code.
        correct: whether the step is right.
    """
    code = critique.verification.removeprefix("```python\n")
    verdict = "Yes" if correct else "No"
    return (
        f"{prompts.render('genprm/analyze', paragraph=paragraph)}{critique.analysis}\n</analyze>\n"
        f"{prompts.render('genprm/verify')}{code.rstrip()}\n</verify>\n"
        f"{prompts.render('genprm/output')}{{{verdict}}}$\n</output>\n"
    )


async def _run(session: Session, text: str, statuses: Counter[str]) -> str:
    """Runs the last block of a text and returns the output block to append."""
    block = last_block(text)
    assert block is not None
    result = await session.run(block.source)
    statuses[result.status.value] += 1
    return prompts.render("genprm/code_output", output=code_output(result, OUTPUT_CHARS))


def _block_just_closed(text: str) -> bool:
    """Whether the text ends with the closing fence of a Python block."""
    opened = text.rfind("```python")
    return opened >= 0 and text.count("```", opened) == 2


def holds(left: str, value: str) -> bool:
    """Whether an equation of two whole numbers holds, as `read_equations` reads it."""
    a, operator, b = re.fullmatch(r"(\d+)([-+*/])(\d+)", left).groups()  # pyright: ignore[reportOptionalMemberAccess]
    exact = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}.get(operator)
    return int(value) == exact if exact is not None else int(b) != 0 and int(value) * int(b) == int(a)
