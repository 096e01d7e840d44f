"""`genprm verify`: judge every step of many solutions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli import options
from genprm.cli.boundary import FAILED, friendly, run_async, stderr, stdout
from genprm.keep import Keep
from genprm.types import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.batch import Progress
    from genprm.prms.base import PRM
    from genprm.runs import RunFolder

FREE = ("limit", "concurrency", "sandbox", "base_url")
"""Options that do not change results: they may differ when a run goes on."""

EPILOG = """Examples:\n
  genprm verify solutions.jsonl --with-code --out runs/a\n
  genprm verify solutions.jsonl --model GenPRM/GenPRM-7B --votes 8\n
  genprm verify solutions.jsonl --model GenPRM/GenPRM-7B --base-url http://127.0.0.1:8000/v1\n
Exit codes: 0 all rows were judged, 1 some failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""


@dataclass(frozen=True, slots=True)
class Judging:
    """How solutions are judged: the options of `verify` that concern the model."""

    model: str
    family: options.FamilyName | None
    revision: str | None
    dtype: str
    engine: options.EngineName
    base_url: tuple[str, ...]
    sandbox: options.SandboxName
    mode: options.ModeName
    votes: int
    temperature: float | None
    threshold: float
    calibration: Path | None = None
    profile: Path | None = None


def verify(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="JSONL files or JSON arrays of solutions (ProcessBench as it is); - is standard input.",
            show_default=False,
        ),
    ],
    with_code: options.WithCode = None,
    mode: options.Mode = None,
    model: options.Model = "nano",
    family: options.Family = None,
    engine: options.Engine = "auto",
    base_url: options.BaseUrl = None,
    votes: options.Votes = 1,
    temperature: options.Temperature = None,
    seed: options.Seed = 0,
    threshold: options.Threshold = DEFAULT_THRESHOLD,
    calibration: options.CalibrationFile = None,
    profile: options.ProfileFile = None,
    sandbox: options.Sandbox = "auto",
    concurrency: options.Concurrency = None,
    limit: options.Limit = None,
    keep: options.KeepOption = Keep.FULL,
    out: options.Out = None,
    clean: options.Clean = False,
    revision: options.Revision = None,
    dtype: options.Dtype = "auto",
    config: options.Config = None,
) -> None:
    """Judges every step of the solutions in FILE..., and writes a folder with all of it and a page to read it in.

    A row is a JSON object with `problem` (or `question`), and `steps` (a list of texts) or `solution` (a text, which is
    split into steps). Optional: `id`, `answer`, `label` (0-based index of the first wrong step, -1 for none), and
    `tests` (Python that raises when the solution's fenced code is wrong; it is run in the sandbox).
    """
    del context, config
    with friendly():
        judging = Judging(
            model=model,
            family=family,
            revision=revision,
            dtype=dtype,
            engine=engine,
            base_url=tuple(base_url or ()),
            sandbox=sandbox,
            mode=options.resolve_mode(mode, with_code),
            votes=votes,
            temperature=temperature,
            threshold=threshold,
            calibration=calibration,
            profile=profile,
        )
        code = run_async(_verify(judging, files, seed, concurrency, limit, keep, out, clean))
    raise typer.Exit(code)


async def _verify(
    judging: Judging,
    files: list[str],
    seed: int,
    concurrency: int | None,
    limit: int | None,
    keep: Keep,
    out: Path | None,
    clean: bool,
) -> int:
    import asyncio

    from genprm.batch import BatchError, Progress
    from genprm.cli.progress import shown
    from genprm.code_tests import CodeTests
    from genprm.inputs import count_rows, read_rows
    from genprm.runs import digest, open_run
    from genprm.verify import default_concurrency, verify
    from sandbox import open_sandbox

    config: dict[str, JsonValue] = {
        "files": list(files),
        "model": judging.model,
        "family": judging.family,
        "revision": judging.revision,
        "dtype": judging.dtype,
        "engine": "openai" if judging.base_url else judging.engine,
        "base_url": list(judging.base_url),
        "sandbox": judging.sandbox,
        "mode": judging.mode,
        "votes": judging.votes,
        "temperature": judging.temperature,
        "threshold": judging.threshold,
        "calibration": calibration_digest(judging.calibration),
        "profile": options.read_profile_file(judging.profile),
        "seed": seed,
        "limit": limit,
        "concurrency": concurrency,
        "keep": keep.value,
    }
    total = count_rows(files)
    if total is not None and limit is not None:
        total = min(total, limit)
    if out is None:
        stem = "stdin" if files[0] == "-" else Path(files[0]).stem
        out = Path("runs") / f"{stem}-{digest('verify', config, FREE)[:8]}"
    with open_run(out, command="verify", config=config, free=FREE, clean=clean) as run:
        if run.done:
            stderr().print(f"Going on with {out}: {len(run.done):,} rows are there.", soft_wrap=True)
        progress = Progress(total)
        started = time.perf_counter()
        stopped: BaseException | None = None
        try:
            async with (
                opened(judging, seed, run) as prm,
                CodeTests(lambda: open_sandbox(judging.sandbox)) as code_tests,
            ):
                started = time.perf_counter()
                with shown(stderr()) as on_progress:
                    await verify(
                        read_rows(files, limit=limit),
                        prm,
                        run,
                        concurrency=concurrency or default_concurrency(prm.capacity, judging.votes),
                        seed=seed,
                        keep=keep,
                        code_tests=code_tests,
                        progress=progress,
                        on_progress=on_progress,
                    )
        except (asyncio.CancelledError, BatchError) as error:
            stopped = error
        _finish(run, progress, time.perf_counter() - started, stopped is not None)
        if stopped is not None:
            stderr().print(f"Stopped. {len(run.done):,} rows are kept; the same command goes on from there.")
            raise stopped
    return FAILED if progress.failed else 0


@asynccontextmanager
async def opened(judging: Judging, seed: int, run: RunFolder) -> AsyncGenerator[PRM]:
    """Loads the model, starts the sandbox, and notes in the run's folder what they came to."""
    from genprm.calibrate import CalibratedPRM, Calibration
    from genprm.prms.critic import Critic
    from genprm.prms.genprm import GenPRM
    from genprm.prms.load import BUILT_IN, BUILT_IN_PATH, load_prm
    from genprm.prms.thinking import ThinkPRMJudge
    from genprm.provenance import weights_of

    _hush()
    calibration = None if judging.calibration is None else Calibration.load(judging.calibration)
    prm = await load_prm(
        judging.model,
        family=judging.family,
        engine=judging.engine,
        base_urls=judging.base_url,
        revision=judging.revision,
        dtype=judging.dtype,
        sandbox=judging.sandbox,
        mode=judging.mode,
        votes=judging.votes,
        temperature=judging.temperature,
        threshold=judging.threshold,
        profile=options.read_profile_file(judging.profile),
        seed=seed,
    )
    try:
        where = BUILT_IN_PATH if judging.model == BUILT_IN else judging.model
        facts: dict[str, JsonValue] = {
            "model": prm.name,
            # What a server has loaded is its own affair.
            "weights": None if judging.base_url else weights_of(where, judging.revision),
            "capacity": prm.capacity,
        }
        if isinstance(prm, GenPRM):
            facts |= {"profile": asdict(prm.profile), "sampling": asdict(prm.sampling)}
            facts["engine"] = type(prm.engine).__module__.rpartition(".")[2]
            if prm.sandbox is not None:
                facts["sandbox"] = prm.sandbox.backend
                if judging.sandbox == "auto":
                    stderr().print(f"Sandbox: {prm.sandbox.note}", soft_wrap=True, markup=False)
        if isinstance(prm, (ThinkPRMJudge, Critic)):
            facts |= {"profile": asdict(prm.profile), "sampling": asdict(prm.sampling)}
            facts["engine"] = type(prm.engine).__module__.rpartition(".")[2]
        run.note(facts, fixed=("model", "weights", "profile", "sampling", "engine"))
        yield prm if calibration is None else CalibratedPRM(prm, calibration)
    finally:
        await prm.close()


def calibration_digest(path: Path | None) -> str | None:
    """What is noted of a calibration: its content decides, not where it lies."""
    import hashlib

    from genprm.calibrate import CalibrationError

    if path is None:
        return None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise CalibrationError(f"cannot read the calibration {str(path)!r}: {error.strerror}") from error


def _hush() -> None:
    """Keeps other libraries' bars and chatter out of the log of a run."""
    import os

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if not stderr().is_terminal:
        from transformers.utils import logging

        logging.disable_progress_bar()


def _finish(run: RunFolder, progress: Progress, seconds: float, interrupted: bool) -> None:
    """Writes metrics and page, and prints what the run came to."""
    from genprm.cli import summary
    from genprm.metrics import SessionMetrics, Tally
    from genprm.report import write_page
    from genprm.rows import FailureRow, VerifyRow
    from genprm.runs import FAILURES, METRICS, REPORT, read_rows_of, write_atomically
    from genprm.verify import finished_rows

    tally = Tally()
    few: list[VerifyRow] = []
    for row in finished_rows(run, progress):
        tally.add(row)
        if tally.rows <= summary.ROWS_SHOWN:
            few.append(row)
    session = SessionMetrics(
        rows=progress.judged,
        failed=progress.failed,
        seconds=round(seconds, 3),
        generated_per_s=round(progress.generated / seconds, 1) if seconds > 0 else 0.0,
    )
    metrics = tally.metrics(failed=progress.failed, session=session, interrupted=interrupted)
    write_atomically(run.path / METRICS, metrics.model_dump_json(indent=2))
    if interrupted:
        return
    page = run.path / REPORT
    left_out = write_page(
        page,
        info=run.info,
        metrics=metrics,
        rows=finished_rows(run, progress),
        failures=read_rows_of(run.path, FailureRow, FAILURES),
    )
    if tally.rows <= summary.ROWS_SHOWN:
        summary.print_rows(stdout(), sorted(few, key=lambda row: progress.keys[row.key]))
    summary.print_summary(stdout(), metrics)
    summary.print_failures(stderr(), read_rows_of(run.path, FailureRow, FAILURES), str(run.path / FAILURES))
    if others := len(run.done) - tally.rows:
        stderr().print(f"{others:,} rows in the folder are not in this input; they are kept, but not counted.")
    if left_out:
        stderr().print(f"The page lists all rows, but has no room for the texts of {left_out:,} of them.")
    stdout().print(f"page: {page}", soft_wrap=True)
