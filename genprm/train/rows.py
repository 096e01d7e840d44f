"""Reads training data: a folder of `genprm synthesize` or `genprm label`, files, or a data set of the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import BaseModel

from genprm.data.inputs import BadRow, InputRow, Record, parse_row, read_records

T = TypeVar("T")


class TrainError(RuntimeError):
    """A training run cannot start or continue: unusable data, an unsuitable model, another run's checkpoint."""


class RowError(ValueError):
    """A row cannot be trained on; the message says why."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row and its position."""

    file: str
    line: int
    """1-based line (JSON Lines), element (JSON array) or row (Parquet, Hub)."""
    value: Mapping[str, object]

    def __str__(self) -> str:
        return f"{self.file}, row {self.line}"


class LeftOut(BaseModel):
    """A row that is not trained on."""

    file: str
    row: int
    reason: str


@dataclass(slots=True)
class Collected(Generic[T]):
    """The results for the rows of a data set."""

    made: list[T] = field(default_factory=list[T])
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])

    @property
    def also(self) -> str:
        """A note about skipped rows."""
        return f", {len(self.left_out):,} rows left out" if self.left_out else ""


async def collect(
    rows: Iterable[SourceRow],
    make: Callable[[SourceRow], Awaitable[T]],
    *,
    bad_rows: Literal["error", "skip"] = "error",
    limit: int | None = None,
) -> Collected[T]:
    """Converts every row.

    Args:
        rows: rows of the data set.
        make: raises `RowError` for a row that cannot be trained on.
        bad_rows: what to do with such a row.
        limit: most rows to take.

    Raises:
        TrainError: there is such a row and `bad_rows` is `error`, or no row is left.
    """
    found = Collected[T]()
    seen = 0
    for row in rows:
        if limit is not None and seen >= limit:
            break
        seen += 1
        try:
            found.made.append(await make(row))
        except RowError as error:
            if bad_rows == "error":
                raise TrainError(f"{row}: {error}. Fix the row, or skip such rows with --bad-rows skip.") from None
            found.left_out.append(LeftOut(file=row.file, row=row.line, reason=str(error)))
    if not found.made:
        why = f": of {seen:,} rows none can be trained on; the first: {found.left_out[0].reason}" if seen else ""
        raise TrainError(f"the data set is empty{why}")
    return found


def solution_of(row: SourceRow, *without: str) -> InputRow:
    """Problem, steps and first wrong step of a row, in any format that `genprm verify` reads.

    Args:
        row: of a data set.
        *without: columns to ignore.

    Raises:
        RowError: there is no problem or solution, or the label does not fit it.
    """
    if "solutions" in row.value and "samples" in row.value:
        raise RowError("this is a row of a run of `genprm label`: pass the run's folder, or its dataset/")
    value = {name: one for name, one in row.value.items() if one is not None and name not in without}
    parsed = parse_row(Record(row.file, row.line, value))
    if isinstance(parsed, BadRow):
        raise RowError(parsed.reason)
    return parsed


def check_length(ids: Sequence[int], most: int) -> None:
    """Checks the length of a sequence.

    Raises:
        RowError: it is too long.
    """
    if len(ids) > most:
        raise RowError(f"{len(ids):,} tokens exceed --max-length, {most:,}")


def read_source(source: str | Path) -> Iterator[SourceRow]:
    """Streams the rows of a data set.

    Args:
        source: a `.jsonl`, `.json` or `.parquet` file; a folder with `dataset/` or `data/` of Parquet files, as the
            commands write it, or with such files itself; or the name of a data set on the Hub (its split `train`, or
            `name:split`).

    Raises:
        TrainError: the source does not exist, or a row is not an object.
        InputError: a file cannot be read at all.
    """
    files = _files(source)
    if not files:
        yield from _hub(str(source))
    for file in files:
        yield from _parquet(file) if file.suffix == ".parquet" else _json(file)


def content_of(source: str | Path) -> str | None:
    """Hash of the files of a data set; None for one of the Hub, which is known by its name alone.

    Raises:
        TrainError: the source does not exist, or cannot be read.
    """
    files = _files(source)
    if not files:
        return None
    whole = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise TrainError(f"cannot read {str(file)!r}: {error.strerror}") from error
    return whole.hexdigest()[:16]


def _files(source: str | Path) -> list[Path]:
    """The files of a data set; none for one of the Hub."""
    path = Path(source)
    if path.is_dir():
        if files := _files_of(path):
            return files
        raise TrainError(f"{str(path)!r} holds no data set: no .parquet, .jsonl or .json file, nor dataset/ or data/")
    if path.is_file():
        return [path]
    if path.suffix in (".jsonl", ".json", ".parquet") or str(source).startswith((".", "/")):
        raise TrainError(f"there is no data set {str(source)!r}")
    return []


def _files_of(folder: Path) -> list[Path]:
    for place in (folder / "dataset" / "data", folder / "data", folder):
        for kind in ("*.parquet", "*.jsonl", "*.json"):
            found = sorted(f for f in place.glob(kind) if f.stat().st_size and not f.name.startswith("."))
            if place is folder and (folder / "run.json").exists():
                continue  # the rows of a run are not training rows
            if found:
                return found
    return []


def _json(file: Path) -> Iterator[SourceRow]:
    for record in read_records([file]):
        if record.error is not None:
            raise TrainError(f"{record.file}, line {record.line}: {record.error}")
        if not isinstance(record.value, dict):
            raise TrainError(f"{record.file}, line {record.line}: a row must be an object, not {record.value!r:.60}")
        yield SourceRow(record.file, record.line, cast("dict[str, object]", record.value))


def _parquet(file: Path) -> Iterator[SourceRow]:
    pq = _import("pyarrow.parquet", "pyarrow")
    try:
        table = pq.ParquetFile(file)
        number = 0
        for batch in table.iter_batches(batch_size=256):
            for value in cast("Sequence[dict[str, object]]", batch.to_pylist()):
                number += 1
                yield SourceRow(str(file), number, value)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise TrainError(
            f"cannot read {str(file)!r} as Parquet: {error}. Copy or make it again; rows in JSON Lines need a name in "
            ".jsonl"
        ) from error


def _hub(name: str) -> Iterator[SourceRow]:
    datasets = _import("datasets", "datasets")
    repository, _, split = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, split=split or "train")
    except Exception as error:  # its errors have no common base
        raise TrainError(f"{name!r} is neither a file or folder here nor a data set of the Hub: {error}") from error
    for number, value in enumerate(loaded, start=1):
        yield SourceRow(name, number, value)


def _import(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise TrainError(f"training needs {package}: pip install 'genprm[train]'") from None
