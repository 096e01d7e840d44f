import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from genprm.calibrate import LabelledScores, fit, labelled_scores, measure, reliability, save
from genprm.cli.main import app
from genprm.data.inputs import InputRow
from genprm.prms.calibration import CalibratedPRM, Calibration, CalibrationError
from genprm.runs.folder import open_run
from genprm.runs.rows import verify_row
from genprm.types import Judgement, StepJudgement, Verdict, sigmoid

TRUE_TEMPERATURE = 3.0


def step(score, log_odds=None):
    return StepJudgement(score, log_odds, None, ())


def overconfident(solutions=400, steps=4, seed=0):
    """Steps whose log-odds are three times what they should be."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(1.0, 1.5, size=solutions * steps)
    right = (rng.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))).astype(int)
    sure = TRUE_TEMPERATURE * log_odds
    groups = np.repeat(np.arange(solutions), steps)
    return LabelledScores(1 / (1 + np.exp(-sure)), sure, right, groups)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_overconfidence_is_found_and_mended(method, tmp_path):
    result = fit(overconfident(), method, model="m")
    found = result.calibration
    assert found.before.ece > 0.08
    assert found.after.ece < 0.04
    assert found.after.brier < found.before.brier
    assert found.after.log_loss < found.before.log_loss
    assert (found.solutions, found.steps, found.model) == (400, 1600, "m")
    if method == "temperature":
        assert found.temperature == pytest.approx(TRUE_TEMPERATURE, rel=0.15)
    path = tmp_path / "c.json"
    save(found, path)
    assert Calibration.load(path) == found


def test_temperature_keeps_order_and_uses_log_odds():
    calibration = Calibration(method="temperature", temperature=2.0)
    assert calibration.apply(0.5) == 0.5
    assert calibration.apply(0.9) == pytest.approx(sigmoid(math.log(9) / 2))
    assert calibration.apply(1.0, 60.0) == pytest.approx(sigmoid(30.0))
    assert calibration.apply(1.0, 80.0) >= calibration.apply(1.0, 60.0)
    assert 0 <= calibration.apply(0.0) < calibration.apply(1.0) <= 1


def test_isotonic_interpolates_and_stays_flat_outside():
    calibration = Calibration(method="isotonic", scores=[0.2, 0.4, 0.8], values=[0.1, 0.1, 0.9])
    got = [calibration.apply(x) for x in (0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)]
    assert got == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.5, 0.9, 0.9])


def test_measures_by_hand():
    scores, right = np.array([0.9, 0.9, 0.1, 0.1]), np.array([1, 0, 0, 0])
    metrics = measure(scores, right)
    assert metrics.ece == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert metrics.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert metrics.log_loss == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4)
    assert [(b.score, b.right, b.steps) for b in reliability(scores, right)] == [
        (pytest.approx(0.1), 0.0, 2),
        (pytest.approx(0.9), 0.5, 2),
    ]


def judged(number, label, *scores):
    row = InputRow(f"{number:04x}", "f", number, "p", tuple("s" for _ in scores), f"m-{number}", None, label)
    judgement = Judgement(tuple(step(score) for score in scores))
    return verify_row(row, judgement, seconds=0.0)


def test_which_steps_have_a_known_label():
    rows = [judged(0, 1, 0.9, 0.2, 0.3), judged(1, -1, 0.8, None), judged(2, None, 0.5)]
    data = labelled_scores(rows)
    assert data.scores.tolist() == [0.9, 0.2, 0.8]
    assert data.right.tolist() == [1, 0, 1]
    assert data.groups.tolist() == [0, 0, 1]


def test_a_calibrated_judgement():
    calibration = Calibration(method="isotonic", scores=[0.0, 1.0], values=[0.0, 0.6])
    judgement = Judgement((step(0.9), step(None), step(0.7)), threshold=0.5, solution=step(1.0))
    after = calibration.apply_to(judgement)
    assert after.scores == [pytest.approx(0.54), None, pytest.approx(0.42)]
    assert after.verdicts == [Verdict.YES, None, Verdict.NO]
    assert after.solution.score == pytest.approx(0.6)


async def test_a_calibrated_judge():
    from tests.judges import ArithmeticJudge

    calibration = Calibration(method="isotonic", scores=[0.0, 1.0], values=[0.0, 0.5])
    prm = CalibratedPRM(ArithmeticJudge(), calibration)
    assert (await prm.judge("p", ["1 = 1"])).scores == [pytest.approx(0.45)]
    assert prm.name == "arithmetic"
    await prm.close()


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration(method="temperature", temperature=3.0),
        Calibration(method="isotonic", scores=[0.2, 0.4, 0.8], values=[0.1, 0.1, 0.9]),
        Calibration(method="isotonic", scores=[0.2, 0.8], values=[0.6, 0.9]),
        Calibration(method="isotonic", scores=[0.2, 0.8], values=[0.1, 0.4]),
    ],
)
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.85, 1.0])
def test_the_raw_threshold_is_where_the_calibrated_verdict_turns(calibration, threshold):
    turn = calibration.raw_threshold(threshold)
    assert all(
        (calibration.apply(score) >= threshold) == (score >= turn) for score in np.linspace(0, 1, 101) if score != turn
    )


@pytest.mark.parametrize(("score", "log_odds"), [(1.0, math.inf), (0.0, -math.inf), (0.7, None), (1.0, 31.0)])
def test_scores_of_a_run_are_fitted_as_they_are_calibrated(score, log_odds):
    # Unanimous votes: a row cannot hold their infinite log-odds.
    row = InputRow("a", "f", 0, "p", ("s",), "m", None, -1)
    judged = step(score, log_odds)
    data = labelled_scores([verify_row(row, Judgement((judged,)), seconds=0.0)])
    calibration = Calibration(method="temperature", temperature=2.0)
    live = calibration.apply_to_step(judged, 0.5)
    assert live.score == calibration.apply(float(data.scores[0]), float(data.log_odds[0]))
    assert math.isfinite(live.log_odds)


def test_separable_scores_fit_a_sensible_temperature_and_say_so(tmp_path):
    rng = np.random.default_rng(0)
    right = (rng.random(200) < 0.8).astype(int)
    log_odds = np.where(right == 1, 1, -1) * rng.uniform(1, 3, 200)
    data = LabelledScores(1 / (1 + np.exp(-log_odds)), log_odds, right, np.repeat(np.arange(50), 4))
    found = fit(data, "temperature").calibration
    assert found.separable
    assert 0.2 < found.temperature < 2
    # One step on the wrong side, and there is a maximum by itself.
    flipped = right.copy()
    flipped[0] = 1 - flipped[0]
    assert not fit(LabelledScores(data.scores, log_odds, flipped, data.groups), "temperature").calibration.separable


def test_nothing_to_fit_on():
    data = overconfident(solutions=3)
    with pytest.raises(CalibrationError, match="3 labelled solutions are too few for 5 folds"):
        fit(data, "temperature")
    data = overconfident(solutions=20)
    right = LabelledScores(data.scores, data.log_odds, np.ones_like(data.right), data.groups)
    with pytest.raises(CalibrationError, match="all labelled steps are right"):
        fit(right, "isotonic")


@pytest.mark.parametrize(
    "text",
    ["{}", "no", '{"method": "temperature"}', '{"method": "isotonic", "scores": [0.5, 0.1], "values": [0.1, 0.2]}'],
)
def test_files_that_are_no_calibration(text, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match="is not a calibration"):
        Calibration.load(path)
    with pytest.raises(CalibrationError, match="cannot read"):
        Calibration.load(tmp_path / "none")


def test_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    with open_run(tmp_path / "run", command="verify", config={"model": "m"}) as run:
        for number in range(60):
            label = int(rng.integers(-1, 3))
            scores = [float(rng.uniform(0.1, 0.4) if i == label else rng.uniform(0.6, 0.99)) for i in range(3)]
            row = judged(number, label, *scores)
            run.add(row, row.key)
    result = CliRunner().invoke(app, ["calibrate", "run", "--out", "c.json"])
    assert result.exit_code == 0, result.output
    assert "ECE" in result.output
    assert "60 solutions" in result.output
    assert json.loads((tmp_path / "c.json").read_text())["model"] == "m"
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")
    missing = CliRunner().invoke(app, ["calibrate", "nowhere"])
    assert missing.exit_code == 2
