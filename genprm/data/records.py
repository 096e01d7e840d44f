"""Reads the records of input files: JSON Lines, JSON, CSV and Parquet, compressed or not, and data sets of the Hub.

The first bytes of a file decide what it is. JSON Lines are streamed; a line that is not JSON becomes a `Record` with
its error, and reading continues. A file of another kind is one `InputError`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import importlib.util
import io
import json
import logging
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

logger = logging.getLogger(__name__)

STDIN = "-"
"""The file name that stands for standard input."""
HUB = "hf://"
"""Prefix of data sets: `hf://OWNER/NAME/SPLIT`, or `hf://OWNER/NAME@CONFIG/SPLIT`."""

_QUOTED = 80
"""Maximum length of a value quoted in an error message, in characters."""
_LISTS = ("data", "rows", "examples")
"""Keys under which a JSON object may hold all rows."""
_FIELDS = {"problem", "question", "prompt", "solution", "steps", "completions", "answer"}
"""Column names by which a CSV file is recognised."""
_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive, an Excel sheet or a PyTorch file"),
    (b"%PDF", "a PDF"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x80", "a Python pickle"),
)


class InputError(ValueError):
    """A file that cannot be read at all: missing, a folder, or in no known format."""


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON value of an input file, or the reason why it cannot be read."""

    file: str
    line: int
    """1-based line of JSON Lines, or 1-based element of any other file."""
    value: object
    error: str | None = None


def read_records(files: Iterable[str | Path]) -> Iterator[Record]:
    """Streams the records of several files, without checking their fields.

    Args:
        files: paths, `-` for standard input, or names such as `hf://Qwen/ProcessBench/math`.

    Raises:
        InputError: a file cannot be read at all.
    """
    for file in files:
        empty = True
        for record in _hub(str(file)) if str(file).startswith(HUB) else _file(file):
            empty = False
            yield record
        if empty:
            logger.warning("%s is empty", "standard input" if str(file) == STDIN else file)


def can_be_read_twice(files: Sequence[str | Path]) -> bool:
    """Whether all are regular files or data sets: a pipe gives its rows only once."""
    return all(str(file).startswith(HUB) or Path(file).is_file() for file in files)


def count_records(files: Sequence[str | Path]) -> int | None:
    """Number of records in these files; None when one of them can be read only once.

    Raises:
        InputError: a file cannot be read at all.
    """
    for file in files:
        if str(file) != STDIN and not str(file).startswith(HUB) and not Path(file).exists():
            raise InputError(f"cannot read {str(file)!r}: No such file or directory")
    if not all(can_be_read_twice([file]) or Path(file).is_dir() for file in files):
        return None
    return sum(1 for _ in read_records(files))


def _file(file: str | Path) -> Iterator[Record]:
    name = "<stdin>" if str(file) == STDIN else str(file)
    with _open(file) as opened:
        stream = _decompressed(name, opened)
        start = stream.peek(16)[:16]
        if start.startswith(b"PAR1"):
            yield from _parquet(name, stream)
            return
        for magic, what in _OTHERS:
            if start.startswith(magic):
                raise InputError(f"{name} is {what}: convert it to JSON Lines, CSV or Parquet")
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            stream = io.BufferedReader(cast("Any", io.BytesIO(stream.read().decode("utf-16").encode())))
        yield from _text(name, stream, table=_is_table(name))


def _is_table(name: str) -> str | None:
    """The separator of a CSV or TSV file, by its name."""
    suffixes = [suffix for suffix in map(str.lower, Path(name).suffixes) if suffix not in (".gz", ".zst")]
    return {".tsv": "\t", ".csv": ","}.get(suffixes[-1]) if suffixes else None


def _text(name: str, stream: BinaryIO, table: str | None) -> Iterator[Record]:
    number, line = 0, b""
    for number, line in enumerate(stream, start=1):  # noqa: B007 - the first line that is not blank
        if not line.isspace():
            break
    if not line or line.isspace():
        return
    first = line.removeprefix(codecs.BOM_UTF8).lstrip()
    if table is None and first[:1] not in (b"[", b"{") and _columns(first) & _FIELDS:
        table = "\t" if b"\t" in first else ","
    if table is not None:
        yield from _csv(name, line + stream.read(), table)
        return
    if first.startswith(b"["):
        yield from _elements(name, _array(name, line + stream.read()))
        return
    record = _parse_line(name, number, line)
    if record.error is not None and first.startswith(b"{"):
        # An object over several lines, or the first line is broken.
        rest = line + stream.read()
        objects = _objects(rest)
        if objects is not None:
            yield from _elements(name, objects)
            return
        yield from _lines(name, io.BytesIO(rest), number)
        return
    if record.error is not None:
        raise InputError(f"{name} is neither JSON Lines, JSON, CSV nor Parquet: it begins with {_start(line)!r}")
    if (rows := _listed(record.value)) is not None:
        yield from _elements(name, rows)
    else:
        yield record
    yield from _lines(name, stream, number + 1)


def _columns(line: bytes) -> set[str]:
    return {part.strip().strip('"') for part in line.decode("utf-8", "replace").replace("\t", ",").split(",")}


def _lines(name: str, stream: BinaryIO, first: int) -> Iterator[Record]:
    for number, line in enumerate(stream, start=first):
        if not line.isspace():
            yield _parse_line(name, number, line)


def _elements(name: str, values: Iterable[object]) -> Iterator[Record]:
    for number, value in enumerate(values, start=1):
        yield Record(name, number, value)


def _listed(value: object) -> list[object] | None:
    """The rows of an object such as `{"data": [...]}`."""
    if not isinstance(value, dict) or cast("dict[str, object]", value).keys() & _FIELDS:
        return None
    for key in _LISTS:
        rows = cast("dict[str, object]", value).get(key)
        if isinstance(rows, list):
            return cast("list[object]", rows)
    return None


def _objects(text: bytes) -> list[object] | None:
    """Objects one after the other, each over any number of lines; None when the text is something else."""
    decoder, place, found = json.JSONDecoder(), 0, list[object]()
    try:
        decoded = text.decode("utf-8-sig").strip()
        while place < len(decoded):
            value, place = decoder.raw_decode(decoded, place)
            found.append(value)
            while place < len(decoded) and decoded[place].isspace():
                place += 1
    except (ValueError, RecursionError):
        return None
    rows = _listed(found[0]) if len(found) == 1 else None
    return found if rows is None else rows


def _array(name: str, text: bytes) -> list[object]:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} starts with '[' but is not a JSON array: {error}") from error


def _csv(name: str, text: bytes, separator: str) -> Iterator[Record]:
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is a table, but not UTF-8: {error}") from error
    csv.field_size_limit(1 << 30)
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(decoded, newline=""), delimiter=separator), start=1):
            yield Record(name, number, {key: _cell(value) for key, value in row.items() if key and value})
    except csv.Error as error:
        raise InputError(f"{name} is not a table: {error}") from error


def _cell(value: str) -> object:
    """Lists and objects in a cell are JSON; anything else is text."""
    if value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _parquet(name: str, stream: BinaryIO) -> Iterator[Record]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{name} is a Parquet file, which needs pyarrow: pip install 'genprm[data]'") from None
    parquet: Any = pq
    try:
        file = parquet.ParquetFile(stream if stream.seekable() else io.BytesIO(stream.read()))
        number = 0
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield Record(name, number, {key: value for key, value in row.items() if value is not None})
    except (OSError, ValueError) as error:
        raise InputError(f"{name} begins like a Parquet file but cannot be read: {error}") from error


def _hub(name: str) -> Iterator[Record]:
    parts = name.removeprefix(HUB).split("/")
    if len(parts) != 3 or not all(parts):
        raise InputError(f"{name!r} is not a data set: write {HUB}OWNER/NAME/SPLIT, {HUB}Qwen/ProcessBench/math say")
    dataset, _, config = parts[1].partition("@")
    return load_records(f"{parts[0]}/{dataset}", split=parts[2], config=config or None)


def load_records(name: str, *, split: str, config: str | None = None) -> Iterator[Record]:
    """Streams the rows of a Hub data set, or of a folder that the `datasets` library reads.

    Raises:
        InputError: the library is not installed, or the data set does not load.
    """
    from genprm.engines.hub import unreachable

    if importlib.util.find_spec("datasets") is None:
        raise InputError("reading a data set needs the library datasets: pip install 'genprm[data]'")
    # Asked first: where the Hub cannot be reached, the library works from its cache, and does not retry for minutes.
    reason = None if Path(name).exists() else unreachable()
    import datasets
    from huggingface_hub import constants

    if reason is not None:
        library: Any = datasets
        library.config.HF_HUB_OFFLINE = True  # read when the library was imported, which may be long ago
    try:
        loaded: Iterable[object] = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library has no common exception class
        page = f"{constants.ENDPOINT}/datasets/{name}"
        if reason is not None:
            raise InputError(
                f"the data set {name!r} (split {split!r}) is not in the cache {constants.HF_HOME}, and {reason}. "
                f"Fetch it where the network reaches the Hub (`hf download --repo-type dataset {name}`) and point "
                "HF_HOME at that cache, or set HF_ENDPOINT to a mirror or HTTPS_PROXY to a proxy."
            ) from None
        if "gated" in str(error):
            raise InputError(
                f"the data set {name!r} is gated: accept its licence at {page}, and set HF_TOKEN to a token of that "
                "account"
            ) from None
        raise InputError(f"the data set {name!r} (split {split!r}) does not load: {error}; see {page}") from error
    for number, row in enumerate(loaded, start=1):
        yield Record(name, number, row)


def _decompressed(name: str, stream: io.BufferedReader) -> io.BufferedReader:
    start = stream.peek(4)[:4]
    if start.startswith(b"\x1f\x8b"):
        return io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=stream)))
    if start == b"\x28\xb5\x2f\xfd":
        try:
            import pyarrow as pa
        except ImportError:
            raise InputError(f"{name} is compressed by zstd, which needs pyarrow: pip install 'genprm[data]'") from None
        arrow: Any = pa
        return io.BufferedReader(arrow.CompressedInputStream(arrow.PythonFile(stream, mode="r"), "zstd"))
    return stream


def _parse_line(file: str, number: int, line: bytes) -> Record:
    try:
        # utf-8-sig: accept a byte order mark before the first line.
        return Record(file, number, json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        return Record(file, number, None, error=f"not UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        return Record(file, number, None, error=f"not JSON ({error}): {_start(line)!r}")


def _start(line: bytes) -> str:
    return line[:_QUOTED].decode("utf-8", errors="replace").strip()


@contextmanager
def _open(file: str | Path) -> Generator[io.BufferedReader]:
    if str(file) == STDIN:
        given = sys.stdin.buffer
        # Where standard input was replaced, it may not be able to look ahead.
        yield given if isinstance(given, io.BufferedReader) else io.BufferedReader(cast("Any", given))
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below; only the opening may raise InputError
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}") from error
    with stream:
        try:
            yield stream
        except (OSError, EOFError) as error:
            raise InputError(f"cannot read {str(file)!r}: {error}") from error
