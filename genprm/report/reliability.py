"""The reliability plot of a calibration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genprm.calibrate import CrossValidated, reliability
from genprm.prms.calibration import CalibrationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(path: str | Path, result: CrossValidated) -> None:
    """Draws reliability before and after calibration, with the distribution of scores. The suffix sets the format.

    Raises:
        CalibrationError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CalibrationError("the plot needs matplotlib: pip install 'genprm[calibrate]'") from error
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Axes] = [figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)]
    metrics = (result.calibration.before, result.calibration.after)
    for axes, title, scores, measured in zip(
        panels, ("before", "after"), (result.before, result.after), metrics, strict=True
    ):
        points = reliability(scores, result.right)
        shares = [point.steps / len(scores) for point in points]
        axes.bar([point.score for point in points], shares, width=0.03, color="0.85", label="share of steps")
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        axes.plot([point.score for point in points], [point.right for point in points], marker="o", label="right steps")
        assert measured is not None
        axes.set_title(f"{title}: ECE {measured.ece:.3f}, Brier {measured.brier:.3f}")
        # A confident judge has all its points at the ends: keep them fully visible.
        axes.set(xlabel="score", ylabel="share", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.legend(loc="upper left", frameon=False)
    figure.savefig(path)
