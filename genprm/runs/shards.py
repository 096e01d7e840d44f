"""One run over several drivers: each judges a shard of the rows in its own folder; merged, they are one run.

    runs/a/shards/1-of-4/    what `genprm verify ... --shard 1/4 --out runs/a` writes: a run's folder like any other
    runs/a/                  what `genprm merge runs/a` makes of them: the folder that one driver would have written

A row's shard depends only on its content, so drivers need not know each other.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from genprm.data.inputs import BadRow, InputRow
from genprm.runs.folder import (
    FAILURES,
    ROWS,
    RUN,
    SHARDS,
    RunError,
    RunInfo,
    WriteError,
    claim,
    equal,
    read_info,
    repair,
    write_atomically,
)
from genprm.runs.rows import FailureRow

_NAME = re.compile(r"(\d+)-of-(\d+)")
_HEAD = re.compile(rb'(\{"key":"[^"\\]+","place":)(?:\d+|null)')
"""The beginning of a row, up to its place in the input."""
_SAME_FACTS = ("weights", "model", "profile", "sampling", "engine", "family")
"""Facts that must not differ within a run; `model` if the weights have no hash."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads `2/4`.

        Raises:
            ValueError: the text has another form.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"a shard must be K/N with K from 1 to N, such as 2/4, not {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder(self) -> Path:
        """Its path in the folder of the whole run."""
        return Path(SHARDS) / f"{self.number}-of-{self.count}"

    def has(self, row: InputRow | BadRow) -> bool:
        """Whether a row belongs to it. Every row belongs to one shard of a count; equal rows to the same one."""
        if isinstance(row, InputRow):
            number = int(row.key, 16)
        else:
            number = zlib.crc32(f"{row.file}\0{row.line}".encode(errors="surrogatepass"))
        return number % self.count == self.number - 1


def within(shard: Shard, read: Callable[[], Iterable[InputRow | BadRow]]) -> Iterator[InputRow | BadRow]:
    """The rows of an input that belong to a shard."""
    return (row for row in read() if shard.has(row))


@dataclass(slots=True)
class Merged:
    """The result of a merge."""

    info: RunInfo
    shards: int
    order: dict[str, int] = field(default_factory=dict[str, int])
    """Keys of the rows and their places in the input, in the order of writing; if the input could not be read again,
        the places stored in the rows."""
    in_input: bool = False
    """Whether the input could be read again, to check that no row is missing."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The position of a row."""

    shard: int
    start: int
    length: int


def merge(path: Path, read: Callable[[RunInfo], Iterable[InputRow | BadRow] | None]) -> Merged:
    """Merges the shards in a run's folder. The shards are kept; merging again gives the same result.

    Args:
        path: the folder with `shards/` in it.
        read: returns the run's input, in order; None if it cannot be read again.

    Raises:
        WriteError: the disk is full.
        RunError: a shard is missing, still running, has another configuration or weights, or unfinished rows; or a row
            occurs twice, or the folder has rows that are in no shard.
        InputError: the input cannot be read.
    """
    folders = _folders(path)
    with ExitStack() as stack:
        for folder in folders:
            claim(folder, stack)
        claim(path, stack)
        infos = [read_info(folder) for folder in folders]
        _check_same(folders, infos)
        places = _places(folders)
        info = infos[0].model_copy(
            update={
                "started": min(one.started for one in infos),
                "resumed": [],
                "facts": {k: v for k, v in infos[0].facts.items() if k != "shard"} | {"shards": len(folders)},
            }
        )
        if (path / RUN).exists() and (alone := repair(path / ROWS) - places.keys()):
            raise RunError(f"{str(path)!r} holds {len(alone):,} rows that no shard has: merge in another folder")
        merged = Merged(info, len(folders))
        merged.order = _order(places, folders, read(info), merged)
        write_atomically(path / RUN, info.model_dump_json(indent=2))
        _write(path / ROWS, [folder / ROWS for folder in folders], ((places[k], n) for k, n in merged.order.items()))
        failures = b"".join((folder / FAILURES).read_bytes() for folder in folders)
        write_atomically(path / FAILURES, failures.decode())
    return merged


def _folders(path: Path) -> list[Path]:
    """The folders of all shards, in order."""
    found = {(int(m[2]), int(m[1])): one for one in (path / SHARDS).glob("*") if (m := _NAME.fullmatch(one.name))}
    if not found:
        raise RunError(f"{str(path)!r} has no shards: `genprm verify ... --shard 1/4 --out {path}` makes one")
    if len(counts := sorted({count for count, _ in found})) > 1:
        raise RunError(f"{str(path / SHARDS)!r} has shards of {counts[0]} and of {counts[1]}: delete those of one kind")
    missing = [number for number in range(1, counts[0] + 1) if (counts[0], number) not in found]
    if missing:
        raise RunError(
            f"of {counts[0]} shards, {', '.join(map(str, missing))} did not run yet (--shard {missing[0]}/{counts[0]})"
        )
    return [found[key] for key in sorted(found)]


def _check_same(folders: list[Path], infos: list[RunInfo]) -> None:
    first = infos[0]
    for folder, info in zip(folders, infos, strict=True):
        settings = {name for name in (*first.config, *info.config) if name not in first.free}
        parts: tuple[tuple[Mapping[str, JsonValue], Mapping[str, JsonValue], Iterable[str]], ...] = (
            (first.config, info.config, sorted(settings)),
            (
                first.facts,
                info.facts,
                _SAME_FACTS if first.facts.get("weights") is None else _SAME_FACTS[:1] + _SAME_FACTS[2:],
            ),
        )
        for one, other, names in parts:
            for name in names:
                if not equal(one.get(name), other.get(name)):
                    raise RunError(
                        f"{folders[0].name} and {folder.name} are of different runs: {name} is {one.get(name)!r} and "
                        f"{other.get(name)!r}"
                    )
        if info.command != first.command:
            raise RunError(f"{folders[0].name} is a run of {first.command!r}, {folder.name} of {info.command!r}")


def _places(folders: list[Path]) -> dict[str, _Place]:
    """The position of every row, by key."""
    places: dict[str, _Place] = {}
    for number, folder in enumerate(folders):
        repair(folder / ROWS)
        start = 0
        with (folder / ROWS).open("rb") as rows:
            for line in rows:
                key = line[len(b'{"key":"') :].partition(b'"')[0].decode()
                if key in places:
                    raise RunError(f"the row {key} is in {folders[places[key].shard].name} and in {folder.name}")
                places[key] = _Place(number, start, len(line))
                start += len(line)
    return places


def _order(
    places: Mapping[str, _Place], folders: list[Path], rows: Iterable[InputRow | BadRow] | None, merged: Merged
) -> dict[str, int]:
    """The keys in the order of the input, followed by those no longer in it."""
    order: dict[str, int] = {}
    place = 0
    if rows is not None:
        merged.in_input = True
        failed = {key for folder in folders for key in _failed(folder)}
        missing, unfinished = 0, 0
        for row in rows:
            if isinstance(row, InputRow):
                if row.key in places:
                    order[row.key] = place
                elif row.key not in failed:
                    missing += 1
                    unfinished = next(n for n in range(len(folders)) if Shard(n + 1, len(folders)).has(row))
                place += 1
        if missing:
            shard = Shard(unfinished + 1, len(folders))
            raise RunError(f"{missing:,} rows are not judged yet, some of shard {shard}: run it again to resume")
    for key in places:
        if key not in order:
            order[key] = place
            place += 1
    return order


def _failed(folder: Path) -> Iterable[str]:
    for line in (folder / FAILURES).read_bytes().splitlines():
        if (key := FailureRow.model_validate_json(line).key) is not None:
            yield key


def _write(path: Path, sources: list[Path], rows: Iterable[tuple[_Place, int]]) -> None:
    """Copies rows, with their places in the whole input, into a new file that takes the old one's place when done."""
    temporary = path.with_name(f".{path.name}.merging")
    try:
        with ExitStack() as stack, temporary.open("wb") as out:
            files = [stack.enter_context(source.open("rb")) for source in sources]
            for lies, place in rows:
                files[lies.shard].seek(lies.start)
                line = files[lies.shard].read(lies.length)
                out.write(_HEAD.sub(lambda head, place=place: head[1] + str(place).encode(), line, count=1))
        temporary.replace(path)
    except OSError as error:
        raise WriteError(f"cannot write {str(path)!r}: {error.strerror}") from error
