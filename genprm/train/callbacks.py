"""Trainer callbacks: the log, evaluations, timed checkpoints, and an orderly stop."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

LOG, CHECKPOINTS = "log.jsonl", "checkpoints"


class Log(TrainerCallback):
    """Writes every logged value to `log.jsonl`, one object per step, and prints it.

    Args:
        path: the file. Lines after the step from which a run is resumed are removed: they are written again.
        say: prints a line; None says nothing.
        note: gets the numbers of each line as well, such as an experiment tracker.
    """

    def __init__(
        self,
        path: Path,
        say: Callable[[str], None] | None,
        note: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        self._path = path
        self._say = say
        self._note = note
        self._started = 0.0
        self._before = 0.0
        """Seconds of earlier runs into this folder."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Cuts the log back to the step from which the run is resumed."""
        kept = [line for line in read_log(self._path) if line["step"] <= state.global_step]
        self._before = max((line.get("seconds", 0.0) for line in kept), default=0.0)
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._started = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Writes a line."""
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        seconds = self._before + time.monotonic() - self._started
        line = {"step": state.global_step, **logs, "seconds": round(seconds, 1)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._note is not None:
            self._note({name: value for name, value in line.items() if isinstance(value, (int, float))})
        if self._say is not None:
            numbers = "  ".join(f"{name} {_short(value)}" for name, value in logs.items() if name in _SAID)
            self._say(f"step {state.global_step:,} of {state.max_steps:,}  {numbers}")


_SAID = (
    "loss",
    "learning_rate",
    "eval_loss",
    "eval_verdict_accuracy",
    "eval_step_accuracy",
    "eval_accuracy",
    "eval_f1",
    "verify_f1",
    "verify_f1_no_code",
)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log. A torn last line is left out."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class Every(TrainerCallback):
    """Calls a function every `steps` steps, and at the last one.

    Args:
        steps: steps between two calls.
        call: takes the step; returns values to log.
        begin: also call before the first step.
    """

    def __init__(self, steps: int, call: Callable[[int], Mapping[str, float]], *, begin: bool = False) -> None:
        self._steps = steps
        self._call = call
        self._begin = begin
        self.trainer: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Calls before the first step."""
        if self._begin and state.global_step == 0:
            self._done(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Calls when due."""
        if state.global_step % self._steps == 0 or state.global_step == state.max_steps:
            self._done(state.global_step)

    def _done(self, step: int) -> None:
        if found := self._call(step):
            # Not by `trainer.log`, which would also log the running means of the training loss.
            self.trainer.callback_handler.on_log(
                self.trainer.args, self.trainer.state, self.trainer.control, dict(found)
            )


class UnloggedLoss(TrainerCallback, ExportableState):
    """Keeps the loss since the last line of the log in checkpoints: the Trainer begins it anew when it resumes.

    With several processes it is the main process's, and the first line after a resume differs a little.
    """

    def __init__(self) -> None:
        self.trainer: Any = None

    def state(self) -> dict[str, Any]:
        """The sum of the losses, and the step of the last line."""
        if not hasattr(self.trainer, "_tr_loss"):  # asked before training too
            return {"args": {}, "attributes": {}}
        loss = {"loss": self.trainer._tr_loss.item(), "logged": self.trainer._globalstep_last_logged}
        return {"args": {}, "attributes": loss}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restores them."""
        stored: dict[str, Any] = cast("Any", state).stateful_callbacks
        # A checkpoint of an earlier version has no entry, and the Trainer expects one.
        if found := stored.setdefault(type(self).__name__, self.state()).get("attributes"):
            self.trainer._tr_loss.fill_(found["loss"])
            self.trainer._globalstep_last_logged = found["logged"]


class SaveByTheClock(TrainerCallback):
    """Requests a checkpoint every few minutes, however many steps that is."""

    def __init__(self, minutes: float) -> None:
        self._seconds = minutes * 60
        self._last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Requests one when due."""
        if time.monotonic() - self._last >= self._seconds:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restarts the clock."""
        self._last = time.monotonic()


class Stop(TrainerCallback):
    """On a signal, ends a run after the current step, with a checkpoint."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Requests a checkpoint and the end."""
        if self.signal is not None and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    @contextmanager
    def listening(self) -> Generator[None]:
        """Handles Ctrl-C and SIGTERM in a block; a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _: object) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
