"""Progress of a long run: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from genprm.cli.terminal import counted, verbosity
from genprm.runs.driver import Progress

LINE_EVERY_S = 10.0


@contextmanager
def shown(console: Console, every_s: float = LINE_EVERY_S) -> Generator[Callable[[Progress], None]]:
    """Shows progress; yields a function to call after every row and step."""
    started = time.monotonic()
    if console.quiet:
        yield lambda _: None
        return
    if console.is_terminal:
        columns = (SpinnerColumn(), BarColumn(bar_width=30), TextColumn("{task.description}"))
        # Output of libraries goes elsewhere: see `genprm.cli.log`.
        logs = verbosity().logs
        with Bar(*columns, console=console, transient=True, redirect_stdout=logs, redirect_stderr=logs) as bar:
            task = bar.add_task("reading", total=None)

            def draw(progress: Progress) -> None:
                text = describe(progress, time.monotonic() - started)
                done = progress.done + _share(progress)
                bar.update(task, completed=done, total=progress.total, description=text)

            yield draw
        return
    last = started

    def write(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            console.print(describe(progress, now - started), soft_wrap=True)

    yield write


def describe(progress: Progress, elapsed_s: float) -> str:
    """One line with a run's counts, rate and remaining time.

    Args:
        progress: the counts.
        elapsed_s: seconds since this run began; rows finished by earlier runs do not count in the rate.
    """
    word = "row" if (progress.done if progress.total is None else progress.total) == 1 else "rows"
    parts = [f"{progress.done:,}{'' if progress.total is None else f'/{progress.total:,}'} {word}"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    judged, steps = (sum(counts) for counts in zip((0, 0), *progress.steps.values(), strict=True))
    if steps:
        parts.append(f"{judged:,} of {counted(steps, 'step')} in flight")
    worked = progress.judged + progress.failed
    if worked and elapsed_s > 0:
        rate = worked / elapsed_s
        parts.append(f"{rate:.1f} rows/s" if rate >= 1 else f"{60 * rate:.1f} rows/min")
        if progress.generated:
            parts.append(f"{progress.generated / elapsed_s:,.0f} tokens/s")
        if progress.total is not None:
            parts.append(f"{duration((progress.total - progress.done) / rate)} left")
    elif (share := _share(progress)) > 0 and progress.total is not None:
        # No row is finished yet: estimate from steps.
        parts.append(f"{duration(elapsed_s * (progress.total - progress.done - share) / share)} left")
    return ", ".join(parts)


def _share(progress: Progress) -> float:
    """The judged part of the rows in flight, as a number of rows."""
    return sum(judged / steps for judged, steps in progress.steps.values())


def duration(seconds: float) -> str:
    """`42 s`, `3:05`, `2:03:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
