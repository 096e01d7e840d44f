"""Training rows of implicit PRMs: responses and whether their answers are right, without step labels."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from genprm.data.steps import split_steps
from genprm.prms.implicit.logratio import ChatSpans, Spans
from genprm.train.rows import Collected, RowError, SourceRow, TrainError, check_length, collect, solution_of

_OUTCOMES = ("final_answer_correct", "correct")


@dataclass(frozen=True, slots=True)
class Response:
    """A response in the model's format."""

    problem: str
    spans: Spans
    correct: bool
    first_error: int | None = None
    """First wrong step, -1 for none; None if unknown. Used only for measuring, never for training."""


async def response_rows(
    rows: Iterable[SourceRow],
    write: ChatSpans,
    *,
    max_length: int,
    bad_rows: Literal["error", "skip"] = "error",
    limit: int | None = None,
) -> Collected[list[Response]]:
    """Formats the responses of a data set as the judge does; a row may have several.

    Args:
        rows: rows of the data set.
        write: the judge's formatter.
        max_length: longest sequence in tokens.
        bad_rows: what to do with a row that cannot be trained on.
        limit: most rows to take.

    Raises:
        TrainError: a row cannot be trained on and `bad_rows` is `error`, or no row is left.
    """

    async def make(row: SourceRow) -> list[Response]:
        made: list[Response] = []
        for problem, steps, correct, first_error in read_responses(row):
            spans = write(problem, steps)
            check_length(spans.ids, max_length)
            made.append(Response(problem, spans, correct, first_error))
        return made

    return await collect(rows, make, bad_rows=bad_rows, limit=limit)


Outcome = tuple[str, Sequence[str], bool, int | None]
"""A problem, the steps of a response, whether its answer is right, and its first wrong step."""


def read_responses(row: SourceRow) -> list[Outcome]:
    """The responses of a row.

    Raises:
        RowError: something is missing or inconsistent.
    """
    value = row.value
    if value.get("correctness") is not None:
        return _many(row)
    if value.get("chosen") is not None and value.get("rejected") is not None:
        return [_text(row, name, name == "chosen") for name in ("chosen", "rejected")]
    if value.get("completion") is not None:
        return [_text(row, "completion", _truth(value.get("label"), "label"))]
    solution = solution_of(row, *(["label"] if isinstance(value.get("label"), bool) else []))
    name = next((name for name in (*_OUTCOMES, "label") if value.get(name) is not None), None)
    if name in _OUTCOMES or isinstance(value.get("label"), bool):
        correct = _truth(value[str(name)], str(name))
    elif solution.label is not None:
        correct = solution.label == -1
    else:
        there = ", ".join(f"`{one}`" for one in value)
        raise RowError(
            "nothing says whether the response is right: it needs `final_answer_correct`, `correct` or `label`, and "
            f"there are {there:.200}"
        )
    return [(solution.problem, solution.steps, correct, solution.label)]


def _many(row: SourceRow) -> list[Outcome]:
    """A row with `completions` and `correctness`, as ImplicitPRM's data has them."""
    texts, known = row.value.get("completions"), row.value["correctness"]
    if not isinstance(texts, Sequence) or not isinstance(known, Sequence) or len(texts) != len(known) or not texts:
        counts = [len(one) if isinstance(one, Sequence) else one for one in (texts, known)]
        raise RowError(
            f"`completions` and `correctness` must be lists of one length, not of {counts[0]} and {counts[1]}"
        )
    truths = [_truth(truth, f"correctness[{number}]") for number, truth in enumerate(cast("Sequence[object]", known))]
    return [
        _text(SourceRow(row.file, row.line, {**row.value, "completion": text}), "completion", truth)
        for text, truth in zip(cast("Sequence[object]", texts), truths, strict=True)
    ]


def _text(row: SourceRow, name: str, correct: bool) -> Outcome:
    """A response given as text, or as the last turn of a conversation."""
    given = row.value[name]
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        turn: object = given[-1]
        given = cast("Mapping[str, object]", turn).get("content") if isinstance(turn, Mapping) else None
    if not isinstance(given, str) or not given.strip():
        raise RowError(f"`{name}` must be a text that is not blank, or a conversation, not {row.value[name]!r:.80}")
    kept = {"problem", "question", "prompt"}
    value: dict[str, object] = {key: one for key, one in row.value.items() if key in kept}
    solution = solution_of(SourceRow(row.file, row.line, {**value, "steps": split_steps(given)}))
    return solution.problem, solution.steps, correct, None


def _truth(value: object, name: str) -> bool:
    if value not in (True, False, 0, 1):
        raise RowError(f"`{name}` must be true or false, not {value!r:.80}")
    return bool(value)


def pairs_of(responses: Sequence[Response], most: int | None, seed: int) -> list[tuple[int, int]]:
    """Pairs of a right and a wrong response to one problem: all, or at most `most` drawn at random.

    Args:
        responses: responses to all problems.
        most: pairs per problem.
        seed: of the draw.

    Returns:
        The indices of the right and of the wrong one.

    Raises:
        TrainError: no problem has both.
    """
    by_problem: dict[str, tuple[list[int], list[int]]] = {}
    for index, response in enumerate(responses):
        by_problem.setdefault(response.problem, ([], []))[0 if response.correct else 1].append(index)
    made: list[tuple[int, int]] = []
    for problem, (right, wrong) in by_problem.items():
        pairs = [(one, other) for one in right for other in wrong]
        if most is not None and len(pairs) > most:
            pairs = random.Random(f"{seed} {problem}").sample(pairs, most)
        made += pairs
    if not made:
        raise TrainError(
            f"of {len(by_problem):,} problems none has both a right and a wrong response, which --objective dpo pairs: "
            "--objective ce needs no pairs"
        )
    return made
