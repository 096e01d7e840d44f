"""`genprm calibrate`: calibrate the scores of a judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genprm.cli.boundary import friendly, notes, stdout
from genprm.cli.terminal import counted

if TYPE_CHECKING:
    from genprm.prms.calibration import Calibration


def calibrate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of runs of one judge over labelled solutions.", show_default=False),
    ],
    method: Annotated[
        Literal["temperature", "isotonic"],
        typer.Option(help="`temperature` fits one number; `isotonic` needs a thousand steps or more."),
    ] = "temperature",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation, by solution.")] = 5,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file that `--calibration` takes.")] = Path(
        "calibration.json"
    ),
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw reliability before and after: .svg, .png or .pdf.", show_default="beside --out, .svg"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: the calibration.")] = False,
) -> None:
    """Fits a calibration on the labelled rows of RUN..., and reports calibration error before and after.

    The figures after are cross-validated: no step is scored by a map that was fitted on its solution.
    """
    with friendly():
        from genprm.extras import need

        need("calibrate", "sklearn", what="`genprm calibrate`")
        from genprm.calibrate import fit, labelled_scores, save
        from genprm.prms.calibration import CalibrationError
        from genprm.report.reliability import plot as draw
        from genprm.runs.folder import RunError, read_info, read_rows_of
        from genprm.runs.rows import VerifyRow

        infos = [read_info(run) for run in runs]
        models = sorted({str(info.facts.get("model", info.config.get("model"))) for info in infos})
        if len(models) > 1:
            raise RunError(f"the runs are of different models: {', '.join(models)}. Calibrate each separately.")
        if any(info.config.get("calibration") for info in infos):
            raise RunError("a run's scores are already calibrated; run it without --calibration")
        data = labelled_scores(row for run in runs for row in read_rows_of(run, VerifyRow))
        if not len(data.scores):
            named = ", ".join(repr(str(run)) for run in runs)
            raise CalibrationError(f"no row of {named} has both a label and scores: judge labelled solutions")
        result = fit(data, method, folds=folds, model=models[0])
        save(result.calibration, out)
        picture = plot or out.with_suffix(".svg")
        try:
            draw(picture, result)
        except CalibrationError as error:
            if plot is not None:
                raise
            notes().print(f"No plot: {error}", soft_wrap=True, markup=False)
        else:
            (notes() if as_json else stdout()).print(f"plot: {picture}", soft_wrap=True)
        if as_json:
            typer.echo(result.calibration.model_dump_json())
        else:
            _print(result.calibration)
            stdout().print(f"calibration: {out}", soft_wrap=True)


def _print(found: Calibration) -> None:
    assert found.before is not None
    assert found.after is not None
    stdout().print(f"{counted(found.steps, 'step')} of {counted(found.solutions, 'solution')}")
    if found.temperature is not None:
        stdout().print(f"temperature {found.temperature:.4g}")
    if found.separable:
        stdout().print(
            "The scores separate right from wrong steps perfectly, so the temperature is fitted to softened "
            "labels. Add labelled solutions that the judge gets wrong.",
            soft_wrap=True,
        )
    for name, before, after in (
        ("ECE", found.before.ece, found.after.ece),
        ("Brier", found.before.brier, found.after.brier),
        ("log loss", found.before.log_loss, found.after.log_loss),
    ):
        stdout().print(f"{name:9} {before:.4f} -> {after:.4f}")
