"""Converts a data set to token rows, and checks them before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from genprm.engines.tokenizer import Tokenizer
from genprm.train.export import ExportError, Generative, TokenRow, VerdictAt, export, read_conversation
from genprm.train.replay import IGNORE
from genprm.train.rows import LeftOut, SourceRow, check_length, collect

_IDS: TypeAdapter[list[int]] = TypeAdapter(list[int])
_VERDICTS: TypeAdapter[list[VerdictAt]] = TypeAdapter(list[VerdictAt])


@dataclass(slots=True)
class TokenSet:
    """The training sequences of a data set."""

    rows: list[TokenRow] = field(default_factory=list[TokenRow])
    source: list[int] = field(default_factory=list[int])
    """(rows,) index of the conversation of each."""
    labels: list[int | None] = field(default_factory=list[int | None])
    """(conversations,) the first wrong step, -1 for none; None if unknown."""
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def learned(self) -> int:
        """Number of tokens in the loss."""
        return sum(label != IGNORE for row in self.rows for label in row.labels)


async def tokenize(
    rows: Iterable[SourceRow],
    tokenizer: Tokenizer,
    model: Generative,
    *,
    max_length: int,
    bad_rows: Literal["error", "skip"] = "error",
    limit: int | None = None,
) -> TokenSet:
    """Makes token rows from conversations, or takes rows that already have `input_ids` and `labels`.

    Args:
        rows: of the data set.
        tokenizer: of the model to be trained.
        model: family and profile of the model.
        max_length: longest sequence in tokens.
        bad_rows: what to do with a row that cannot be trained on.
        limit: most rows to take.

    Raises:
        TrainError: a row cannot be trained on and `bad_rows` is `error`, or no row is left.
        PRMError: the tokenizer does not fit the protocol.
    """

    async def make(row: SourceRow) -> list[TokenRow]:
        known = row.value.get("input_ids")
        new = (
            [_ready(row.value)]
            if known is not None
            else await export(read_conversation(row.value, model), tokenizer, model)
        )
        for sequence in new:
            _check(sequence, max_length, tokenizer.vocab_size)
        labels.append(_label(row.value, new))
        return new

    labels: list[int | None] = []
    found = await collect(rows, make, bad_rows=bad_rows, limit=limit)
    return TokenSet(
        [sequence for new in found.made for sequence in new],
        [number for number, new in enumerate(found.made) for _ in new],
        labels,
        found.left_out,
    )


def _ready(value: Mapping[str, object]) -> TokenRow:
    ids, labels = _ints(value, "input_ids"), _ints(value, "labels")
    if len(ids) != len(labels):
        raise ExportError(f"{len(labels)} labels do not fit {len(ids)} input_ids")
    wrong = next((k for k, (a, b) in enumerate(zip(ids, labels, strict=True)) if b not in (IGNORE, a)), None)
    if wrong is not None:
        raise ExportError(f"label {wrong} is {labels[wrong]}: it must be the id there, {ids[wrong]}, or {IGNORE}")
    known: object = value.get("verdicts") or []
    try:
        return TokenRow(ids, labels, tuple(_VERDICTS.validate_python(known)))
    except ValidationError as error:
        raise ExportError(f"`verdicts` cannot be {known!r:.80}: {error.errors()[0]['msg']}") from None


def _ints(value: Mapping[str, object], name: str) -> list[int]:
    try:
        return _IDS.validate_python(value.get(name))
    except ValidationError:
        raise ExportError(f"`{name}` must be a list of integers, not {value.get(name)!r:.80}") from None


def _check(row: TokenRow, max_length: int, vocabulary: int) -> None:
    check_length(row.input_ids, max_length)
    if (highest := max(row.input_ids, default=0)) >= vocabulary:
        raise ExportError(
            f"token id {highest} is outside this tokenizer's {vocabulary:,} ids: the row was made with another one"
        )
    if all(label == IGNORE for label in row.labels[1:]):
        raise ExportError("no token is learned: every label is masked")


def _label(value: Mapping[str, object], rows: Sequence[TokenRow]) -> int | None:
    label = value.get("label")
    if isinstance(label, int):
        return label
    verdicts = sorted((v.step, v.correct) for row in rows for v in row.verdicts if v.step >= 0)
    return next((step for step, correct in verdicts if not correct), -1) if verdicts else None


def to_records(rows: Iterable[TokenRow]) -> Iterator[dict[str, object]]:
    """Token rows as the columns of a file: `input_ids`, `labels`, `verdicts`."""
    for row in rows:
        yield {"input_ids": row.input_ids, "labels": row.labels, "verdicts": [asdict(v) for v in row.verdicts]}


def write_parquet(path: Path, made: TokenSet, facts: Mapping[str, str]) -> None:
    """Writes token rows for any trainer that takes `input_ids` and `labels`.

    Args:
        path: the file.
        made: the rows.
        facts: stored in the file's metadata, such as the tokenizer's name and fingerprint.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    verdict = pa.struct(
        [*((k, pa.int64()) for k in ("step", "at")), ("correct", pa.bool_()), ("yes", pa.int64()), ("no", pa.int64())]
    )
    schema = pa.schema(
        {"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "verdicts": pa.list_(verdict)},
        metadata={f"genprm.{name}": value for name, value in facts.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    pq.write_table(pa.Table.from_pylist(list(to_records(made.rows)), schema=schema), temporary)
    temporary.replace(path)
