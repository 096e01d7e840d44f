"""Problems to search: from files, a data set, a pool of stored solutions, or generated word problems."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from genprm.data.inputs import BadRow, InputError, Record, read_records
from genprm.data.pools import PoolItem, read_pool


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """One problem."""

    key: str
    """Hash of its content; equal rows get `-2`, `-3` ... appended, in input order."""
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
    return _distinct(_row(record, problem, answer) for record in read_records(files))


def read_pools(files: Sequence[str | Path]) -> Iterator[ProblemRow | BadRow]:
    """Streams the problems of a pool of solutions; see `genprm.data.pools.read_pool`."""

    def rows() -> Iterator[ProblemRow | BadRow]:
        for line, item in enumerate(read_pool(files), start=1):
            if isinstance(item, BadRow):
                yield item
            else:
                key = _key([item.problem, item.id, list(item.solutions)])
                yield ProblemRow(key, str(files[0]), line, item.problem, item.id, None, item)

    return _distinct(rows())


def load_dataset(
    name: str, *, split: str, problem: str, answer: str, config: str | None = None
) -> Iterator[ProblemRow | BadRow]:
    """Streams the problems of a Hub data set, or of a folder that the `datasets` library reads.

    Raises:
        InputError: the library is not installed, or the data set does not load.
    """
    try:
        import datasets
    except ImportError:
        raise InputError("reading a data set needs the library datasets: pip install 'genprm[data]'") from None
    try:
        loaded: Iterable[object] = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library has no common exception class
        raise InputError(f"the data set {name!r} (split {split!r}) does not load: {error}") from error
    records = (Record(name, number, row) for number, row in enumerate(loaded, start=1))
    return _distinct(_row(record, problem, answer) for record in records)


def generated(count: int, seed: int) -> Iterator[ProblemRow]:
    """Generated word problems, which the built-in policy can solve; see `genprm.data.word_problems`."""
    from genprm.data.word_problems import make_problems

    for line, made in enumerate(make_problems(count, seed), start=1):
        yield ProblemRow(_key([made.text, made.id, made.answer]), "<generated>", line, made.text, made.id, made.answer)


def _distinct(rows: Iterable[ProblemRow | BadRow]) -> Iterator[ProblemRow | BadRow]:
    seen: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, ProblemRow):
            seen[row.key] += 1
            if (count := seen[row.key]) > 1:
                row = replace(row, key=f"{row.key}-{count}")
        yield row


def _row(record: Record, problem: str, answer: str) -> ProblemRow | BadRow:
    if record.error is not None:
        return BadRow(record.file, record.line, record.error)
    if not isinstance(record.value, Mapping):
        return BadRow(record.file, record.line, f"a row must be a JSON object, not {record.value!r:.80}")
    value = cast("Mapping[str, object]", record.value)
    text = value.get(problem, value.get("question"))
    if not isinstance(text, str) or not text.strip():
        return BadRow(record.file, record.line, f"{problem!r} must be a text that is not blank, not {text!r:.80}")
    found, identity = value.get(answer), value.get("id", value.get("unique_id", value.get("idx")))
    reference = None if found is None else found if isinstance(found, str) else json.dumps(found)
    name = None if identity is None else str(identity)
    return ProblemRow(_key([text, name, reference]), record.file, record.line, text, name, reference)


def _key(content: object) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]
