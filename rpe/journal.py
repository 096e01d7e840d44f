"""A journal of finished rollouts, so that a killed run does not repeat them.

    rollouts.jsonl   in the run folder: one line for each rollout of a problem whose row is not written yet

A problem takes thousands of rollouts, and its row is written only when all of them are done. After a kill, the finished
ones are read back from this file. Lines of finished problems are dropped when the folder is opened again.
"""

from __future__ import annotations

import json
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from genprm.grading.answers import Outcome
from genprm.runs.folder import write_atomically

FILE = "rollouts.jsonl"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A model's continuation of a prefix."""

    outcome: Outcome
    finished: bool
    """Whether the model ended it before the token limit."""
    generated: int
    """Number of generated tokens."""
    text: str | None = None
    """The text of a whole solution; None for a continuation, which is stored only as its outcome."""


class Journal:
    """The finished rollouts of problems whose rows are not written yet.

    Args:
        folder: the run folder. Only the process that holds its lock may write to it.
        done: keys of the problems whose rows are already written.
    """

    def __init__(self, folder: Path, done: Container[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._known: dict[str, dict[str, Rollout]] = {}
        if self._path.exists():
            kept: list[str] = []
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                # A torn last line is a rollout cut off while being written.
                with suppress(ValueError, KeyError, TypeError):
                    row = json.loads(line)
                    problem, name = row.pop("problem"), row.pop("name")
                    if line.endswith("\n") and problem not in done:
                        self._known.setdefault(problem, {})[name] = Rollout(
                            **row | {"outcome": Outcome(row["outcome"])}
                        )
                        kept.append(line)
            write_atomically(self._path, "".join(kept))
        # Unbuffered: when `add` returns, the kernel has the whole line, so a SIGKILL cannot lose it.
        self._file = self._path.open("ab", buffering=0)

    def find(self, problem: str, name: str) -> Rollout | None:
        """Returns the rollout with this name, or None if it was not finished."""
        return self._known.get(problem, {}).get(name)

    def add(self, problem: str, name: str, rollout: Rollout) -> None:
        """Writes a rollout to the file."""
        self._known.setdefault(problem, {})[name] = rollout
        line = {"problem": problem, "name": name, **asdict(rollout)}
        self._file.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")

    def forget(self, problem: str) -> None:
        """Frees the memory of a problem whose row is written."""
        self._known.pop(problem, None)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
