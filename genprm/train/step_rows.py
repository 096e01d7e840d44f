"""Training rows of discriminative PRMs: solutions with labelled steps.

A row says how right each step is: `step_labels`, `mc` and `progress` of `genprm label`, the first wrong step of
ProcessBench (`label`), or TRL's `labels`. Steps with an unknown label are in the input but not in the loss; so are
steps after the first wrong one, unless the row labels them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from genprm.prms.discriminative.formats import SolutionWriter
from genprm.train.replay import IGNORE
from genprm.train.rows import Collected, RowError, SourceRow, check_length, collect, solution_of

LabelKind = Literal["hard", "value", "progress"]
_COLUMNS = {"value": "mc", "progress": "progress"}
_WORDS = {"+": 1.0, "+1": 1.0, "1": 1.0, "true": 1.0, "-": 0.0, "-1": 0.0, "0": 0.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class StepRow:
    """A solution in the model's format, with its labels."""

    input_ids: list[int]
    labels: list[float]
    """(tokens,) P(the step that ends here is right); `IGNORE` elsewhere, and if unknown."""
    positions: list[int]
    """(steps,) positions of the step scores."""
    first_error: int | None
    """First wrong step, -1 for none; None if unknown."""


async def step_rows(
    rows: Iterable[SourceRow],
    writer: SolutionWriter,
    kind: LabelKind,
    *,
    max_length: int,
    bad_rows: Literal["error", "skip"] = "error",
    limit: int | None = None,
) -> Collected[StepRow]:
    """Formats the solutions of a data set as the judge does, with labels at the ends of the steps.

    Args:
        rows: of the data set.
        writer: the judge's formatter.
        kind: which labels of `genprm label` to learn.
        max_length: longest sequence in tokens.
        bad_rows: what to do with a row that cannot be trained on.
        limit: most rows to take.

    Raises:
        TrainError: a row cannot be trained on and `bad_rows` is `error`, or no row is left.
        PRMError: the tokenizer does not fit the layout.
    """

    async def make(row: SourceRow) -> StepRow:
        solution = solution_of(row, "labels")
        targets = step_targets(row.value, len(solution.steps), solution.label, kind)
        layout = writer.layout(solution.problem, solution.steps)
        check_length(layout.ids, max_length)
        labels = [float(IGNORE)] * len(layout.ids)
        for position, target in zip(layout.positions, targets, strict=True):
            labels[position] = float(IGNORE) if target is None else target
        first = solution.label if solution.label is not None else _first_error(targets)
        return StepRow(layout.ids, labels, layout.positions, first)

    return await collect(rows, make, bad_rows=bad_rows, limit=limit)


def step_targets(row: Mapping[str, object], steps: int, first_error: int | None, kind: LabelKind) -> list[float | None]:
    """The target of each step of a row.

    Args:
        row: its columns.
        steps: their number, without a blank last one.
        first_error: first wrong step, -1 for none; None if unknown.
        kind: which labels of `genprm label` to use.

    Returns:
        (steps,) P(right) in [0, 1]; None if unknown.

    Raises:
        RowError: there are no labels, they do not fit the steps, or all are unknown.
    """
    if row.get("labels") is not None:
        found = _column(row, "labels", steps)
    elif kind != "hard":
        name = _COLUMNS[kind]
        if row.get(name) is None:
            raise RowError(
                f"there is no `{name}`, which --labels {kind} learns: `genprm label` writes it. "
                "Other rows have only hard labels"
            )
        found = _column(row, name, steps)
    elif row.get("step_labels") is not None:
        found = _column(row, "step_labels", steps)
    elif first_error is not None:
        wrong = steps if first_error < 0 else first_error
        found = [1.0 if index < wrong else 0.0 if index == wrong else None for index in range(steps)]
    else:
        there = ", ".join(f"`{name}`" for name in row)
        raise RowError(f"there are no labels: `labels`, `step_labels` or `label` is wanted, and there are {there:.200}")
    if all(target is None for target in found):
        raise RowError("no step has a label that is known")
    return found


def _column(row: Mapping[str, object], name: str, steps: int) -> list[float | None]:
    given = row[name]
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise RowError(f"`{name}` must be a list with a label for each step, not {given!r:.80}")
    values = cast("Sequence[object]", given)
    texts = row.get("steps") or row.get("completions")
    # A blank step at the end does not count, but may have a label.
    written = len(cast("Sequence[object]", texts)) if isinstance(texts, Sequence) and not isinstance(texts, str) else 0
    if len(values) not in (steps, max(written, steps)):
        raise RowError(f"{len(values)} `{name}` do not fit {steps} steps")
    return [_target(value, name, index) for index, value in enumerate(values[:steps])]


def _target(value: object, name: str, step: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) or (name == "labels" and value == -1):
        value = _WORDS.get(str(value).lower(), value)
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= (float("inf") if name == "progress" else 1):
        why = " (--method ratio makes progress that can be learned)" if name == "progress" else ""
        raise RowError(f"`{name}` of step {step} must be true, false or a number from 0 to 1, not {value!r:.80}{why}")
    return min(1.0, float(value))


def _first_error(targets: Sequence[float | None]) -> int | None:
    """The first step with P(right) below 1/2, -1 for none; None if a label before it is unknown."""
    for index, target in enumerate(targets):
        if target is None:
            return None
        if target < 0.5:
            return index
    return -1
