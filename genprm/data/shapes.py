"""Converts rows of other projects' data sets to genprm's fields: problem, steps, answer, label.

Supported are TRL's stepwise supervision (`prompt`, `completions`, `labels`) and PRM800K (`question`, `label`, with the
completions and ratings of every step). A row of a best-of-n pool is recognised and gets its own error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from genprm.data.records import InputError

_RIGHT, _WRONG = (
    (True, 1, 1.0, "1", "+", "+1", "true", "True"),
    (False, 0, -1, 0.0, -1.0, "0", "-", "-1", "false", "False"),
)
_OWN = ("problem", "question", "prompt")


def unified(value: Mapping[str, object], file: str = "") -> dict[str, object]:
    """Converts a row to genprm's fields.

    Raises:
        InputError: the file is a pool with several solutions per problem.
        ValueError: the row looks like a known format but does not follow it.
    """
    row = dict(value)
    if isinstance(row.get("code"), list) and isinstance(row.get("pred"), list):
        raise InputError(
            f"{file or 'this'} is a best-of-n pool: its rows have several solutions (code) with their answers (pred). "
            "`genprm bench best-of-n` chooses among them; `genprm search` with problems.pool does so with a PRM"
        )
    if isinstance(row.get("question"), Mapping) and isinstance(row.get("label"), Mapping):
        return _prm800k(row)
    if "problem" not in row and "question" not in row and "prompt" in row:
        row["problem"] = _prompt(row["prompt"])
    if "steps" not in row and isinstance(row.get("completions"), list):
        row["steps"] = row["completions"]
    steps, labels = row.get("steps"), row.get("labels")
    if "label" not in row and isinstance(labels, list) and isinstance(steps, list):
        row["label"] = _first_wrong(cast("list[object]", labels), len(cast("list[object]", steps)))
    return row


def problem_of(row: Mapping[str, object]) -> str:
    """The problem of a row.

    Raises:
        ValueError: there is none; the message names the existing keys.
    """
    found = next((row[name] for name in ("problem", "question") if name in row), None)
    if isinstance(found, str) and found.strip():
        return found
    if found is None:
        there = ", ".join(map(repr, row)) or "no keys"
        raise ValueError(f'a row needs "problem" (or "question", or "prompt"); this one has {there:.200}')
    raise ValueError(f'"problem" must be a text that is not blank, not {found!r:.80}')


def label_of(value: object) -> object:
    """A label as an integer if it is one: `1.0` and `"1"` are 1."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _prompt(value: object) -> object:
    """The text of a prompt; for a conversation, the last user turn."""
    if not isinstance(value, list):
        return value
    turns = [cast("Mapping[str, object]", turn) for turn in cast("list[object]", value) if isinstance(turn, Mapping)]
    return next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), None)


def _first_wrong(labels: list[object], steps: int) -> int:
    if len(labels) != steps:
        raise ValueError(f'"labels" must have one label for each of {steps} steps, not {len(labels)}')
    for index, label in enumerate(labels):
        if label in _WRONG:
            return index
        if label not in _RIGHT:
            raise ValueError(f'"labels" must be true or false, not {label!r:.80}')
    return -1


def _prm800k(row: Mapping[str, object]) -> dict[str, object]:
    question, label = cast("Mapping[str, object]", row["question"]), cast("Mapping[str, object]", row["label"])
    texts, first = list[object](), None
    listed = label.get("steps")
    if not isinstance(listed, list):
        raise ValueError('a PRM800K row needs "label" with "steps"')
    for index, entry in enumerate(cast("list[Mapping[str, object]]", listed)):
        completions = cast("list[Mapping[str, object]]", entry.get("completions") or [])
        chosen, human = entry.get("chosen_completion"), entry.get("human_completion")
        if isinstance(chosen, int) and chosen < len(completions):
            taken = completions[chosen]
        elif isinstance(human, Mapping):
            taken = cast("Mapping[str, object]", human)
        elif completions:
            taken = completions[0]
        else:
            break
        texts.append(taken.get("text"))
        if first is None and taken.get("rating") == -1:
            first = index
    known = first if first is not None else -1 if label.get("finish_reason") == "solution" else None
    return {
        "problem": question.get("problem"),
        "steps": texts,
        "answer": question.get("ground_truth_answer"),
        "label": known,
    }
