"""Every finished rollout, written down at once, so that none is paid for twice.

    rollouts.jsonl   beside the rows of a run: one line a rollout of a problem whose row is not written yet

A problem takes thousands of rollouts, and its row is written when all of them are there. What a killed run had finished
of it is read back from here. The lines of finished problems are dropped when the folder is opened again.
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
    """What a model wrote from a prefix on."""

    outcome: Outcome
    finished: bool
    """Whether it came to its end by itself."""
    generated: int
    """Tokens."""
    text: str | None = None
    """Kept of whole solutions; of continuations only the outcome is."""


class Journal:
    """The rollouts of a run's folder that rows do not hold yet.

    Args:
        folder: of the run. Only the process that holds the run's folder may write to it.
        done: keys of the problems whose rows are there.
    """

    def __init__(self, folder: Path, done: Container[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._known: dict[str, dict[str, Rollout]] = {}
        if self._path.exists():
            kept: list[str] = []
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                # A torn last line is a rollout that was not finished.
                with suppress(ValueError, KeyError, TypeError):
                    row = json.loads(line)
                    problem, name = row.pop("problem"), row.pop("name")
                    if line.endswith("\n") and problem not in done:
                        self._known.setdefault(problem, {})[name] = Rollout(
                            **row | {"outcome": Outcome(row["outcome"])}
                        )
                        kept.append(line)
            write_atomically(self._path, "".join(kept))
        # Unbuffered: a line is in the kernel's hands, whole, when `add` returns.
        self._file = self._path.open("ab", buffering=0)

    def find(self, problem: str, name: str) -> Rollout | None:
        """The rollout of this name, if it was finished."""
        return self._known.get(problem, {}).get(name)

    def add(self, problem: str, name: str, rollout: Rollout) -> None:
        """Writes a rollout down."""
        self._known.setdefault(problem, {})[name] = rollout
        line = {"problem": problem, "name": name, **asdict(rollout)}
        self._file.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")

    def forget(self, problem: str) -> None:
        """Lets go of a problem whose row is written."""
        self._known.pop(problem, None)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
