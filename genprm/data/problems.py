"""Problems to search: from files, a data set, a pool of stored solutions, or generated word problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from genprm.data.inputs import BadRow, Record, distinct, read_records
from genprm.data.pools import PoolItem, read_pool
from genprm.data.records import load_records
from genprm.grading.answers import boxed_answer


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """One problem."""

    key: str
    """Hash of its content."""
    file: str
    line: int
    problem: str
    id: str | None = None
    answer: str | None = None
    """The reference answer; None when unknown."""
    pool: PoolItem | None = None
    """Stored solutions; None when they are to be sampled."""


def read_problems(
    files: Sequence[str | Path], *, problem: str = "problem", answer: str = "answer"
) -> Iterator[ProblemRow | BadRow]:
    """Streams problems from JSONL files or JSON arrays; `-` is standard input.

    Args:
        files: rows are objects with a problem and, to measure accuracy, an answer. `question` is read as well.
        problem: the problem's key.
        answer: the answer's key.

    Raises:
        InputError: a file cannot be read at all.
    """
    return distinct(_row(record, problem, answer) for record in read_records(files))


def read_pools(files: Sequence[str | Path]) -> Iterator[ProblemRow | BadRow]:
    """Streams the problems of a pool of solutions; see `genprm.data.pools.read_pool`."""

    def rows() -> Iterator[ProblemRow | BadRow]:
        for item in read_pool(files):
            if isinstance(item, BadRow):
                yield item
            else:
                yield ProblemRow(item.key, item.file, item.line, item.problem, item.id, None, item)

    return rows()


def load_dataset(
    name: str, *, split: str, problem: str, answer: str, config: str | None = None
) -> Iterator[ProblemRow | BadRow]:
    """Streams the problems of a Hub data set, or of a folder that the `datasets` library reads.

    Raises:
        InputError: the library is not installed, or the data set does not load.
    """
    records = load_records(name, split=split, config=config)
    return distinct(_row(record, problem, answer) for record in records)


def generated(count: int, seed: int) -> Iterator[ProblemRow]:
    """Generated word problems, which the built-in policy can solve; see `genprm.data.word_problems`."""
    from genprm.data.word_problems import make_problems

    for line, made in enumerate(make_problems(count, seed), start=1):
        yield ProblemRow(_key([made.text, made.id, made.answer]), "<generated>", line, made.text, made.id, made.answer)


def _row(record: Record, problem: str, answer: str) -> ProblemRow | BadRow:
    if record.error is not None:
        return BadRow(record.file, record.line, record.error)
    if not isinstance(record.value, Mapping):
        return BadRow(record.file, record.line, f"a row must be a JSON object, not {record.value!r:.80}")
    value = cast("Mapping[str, object]", record.value)
    text = value.get(problem, value.get("question"))
    if not isinstance(text, str) or not text.strip():
        there = "" if text is not None else f"; this row has {', '.join(map(repr, value)):.200}"
        reason = f"{problem!r} must be a text that is not blank, not {text!r:.80}{there}"
        return BadRow(record.file, record.line, reason)
    identity = value.get("id", value.get("unique_id", value.get("idx")))
    reference = _reference(value, answer)
    name = None if identity is None else str(identity)
    return ProblemRow(_key([text, name, reference]), record.file, record.line, text, name, reference)


def _reference(value: Mapping[str, object], answer: str) -> str | None:
    r"""The final answer: after `####` in GSM8K, in the solution's last `\boxed{}` in MATH."""
    found = value.get(answer)
    if found is None and isinstance(solution := value.get("solution"), str):
        return boxed_answer(solution)
    if not isinstance(found, str):
        return None if found is None else json.dumps(found)
    _, mark, final = found.rpartition("\n####")
    return (final if mark else found).strip() or None


def _key(content: object) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]
