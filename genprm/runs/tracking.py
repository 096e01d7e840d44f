"""Experiment trackers: a run's counts during the run, and its metrics at the end. Off by default.

Trackio and Weights & Biases share one interface; their own environment variables (`TRACKIO_DIR`, `TRACKIO_SPACE_ID`,
`WANDB_MODE`, `WANDB_PROJECT` and so on) say where the data goes.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from genprm.config import TrackerName
from genprm.extras import need

logger = logging.getLogger(__name__)

PROJECT = "genprm"
"""The project's name, unless TRACKIO_PROJECT or WANDB_PROJECT is set."""
EVERY_S = 10.0
"""Seconds between two logs of the counts."""


class Tracker:
    """A run at a tracker. A tracker that fails after its start is ignored: it does not affect results.

    Args:
        kind: which tracker; `none` tracks nothing.
        name: the run's name there.
        config: its configuration.

    Raises:
        ExtraError: the tracker is not installed.
    """

    def __init__(self, kind: TrackerName, name: str, config: Mapping[str, JsonValue]) -> None:
        self.kind = kind
        self.project = os.environ.get(f"{kind.upper()}_PROJECT", PROJECT)
        self._module: Any = None
        self._last = time.monotonic()
        if kind != "none":
            check_tracker(kind)
            self._module = importlib.import_module(kind)
            self._module.init(project=self.project, name=name, config=dict(config))

    def note(self, counts: Mapping[str, float]) -> None:
        """Logs counts, at most every ten seconds."""
        if self._module is not None and time.monotonic() - self._last >= EVERY_S:
            self._last = time.monotonic()
            self.log(counts)

    def close(self, metrics: Mapping[str, JsonValue]) -> None:
        """Logs all numbers in the metrics, and ends the run."""
        if self._module is None:
            return
        self.log(numbers(metrics))
        if self._module is not None:
            self._module.finish()
            self._module = None

    def log(self, values: Mapping[str, float]) -> None:
        """Logs values now."""
        if values and self._module is not None:
            try:
                self._module.log(dict(values))
            except Exception:  # any error of its network or disk
                logger.warning("%s failed to log; the run continues without it", self.kind, exc_info=True)
                self._module = None


def check_tracker(kind: TrackerName) -> None:
    """Checks that a tracker is installed.

    Raises:
        ExtraError: it is not installed.
    """
    if kind != "none":
        need(kind, kind, what=f"--track {kind}")


def numbers(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, float]:
    """The numbers in nested values by path: `{"labels": {"f1": 0.5}}` becomes `{"labels/f1": 0.5}`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[prefix + name] = value
    return found
