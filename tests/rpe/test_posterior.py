"""Posteriors of steps and intervals of values, against sampling from the model itself."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm.rpe.labels import Method, step_labels
from genprm.rpe.posterior import (
    KILLED,
    LOSS,
    WRONG,
    Counts,
    Interval,
    posterior_mean,
    progress_interval,
    step_probabilities,
    value_interval,
)


def by_sampling(counts: list[Counts], threshold: float) -> list[float]:
    """The same posterior from paths drawn from the prior and weighted by the likelihood of the counts."""
    rng = np.random.default_rng(0)
    paths = 400_000
    value = rng.random(paths)
    right_so_far = np.ones(paths, bool)
    rights, weights = [], np.zeros(paths)

    def weigh(value: np.ndarray, count: Counts) -> np.ndarray:
        with np.errstate(divide="ignore"):
            won = count.successes * np.log(value) if count.successes else np.zeros(paths)
            return won + (count.rollouts - count.successes) * np.log1p(-value)

    weights += weigh(value, counts[0])
    for count in counts[1:]:
        wrong = rng.random(paths) < WRONG
        killed, loses = rng.random(paths) < KILLED, rng.random(paths) < LOSS
        place = rng.random(paths)
        fallen = np.where(killed, 0.0, threshold * value * place)
        kept = np.where(loses, value * (threshold + (1 - threshold) * place), value + (1 - value) * place)
        wrong |= value == 0
        value = np.where(value == 0, 0.0, np.where(wrong, fallen, kept))
        right_so_far = right_so_far & ~wrong
        rights.append(right_so_far)
        weights += weigh(value, count)
    mass = np.exp(weights - weights.max())
    chain = [mass.sum(), *(mass[right].sum() for right in rights)]
    return [after / before for before, after in pairwise(chain)]


@pytest.mark.parametrize(
    "counts",
    [
        [Counts(14, 32), Counts(9, 16)],
        [Counts(14, 32), Counts(2, 16), Counts(0, 8)],
        [Counts(20, 32), Counts(9, 24), Counts(12, 16)],
        [Counts(5, 32), Counts(0, 16)],
        [Counts(20, 32), Counts(10, 16), Counts(7, 16), Counts(8, 8)],
    ],
)
def test_step_probabilities_are_the_posterior_of_the_model(counts: list[Counts]) -> None:
    assert step_probabilities(counts, 0.8) == pytest.approx(by_sampling(counts, 0.8), abs=0.04)


def test_rollouts_after_a_step_speak_for_or_against_it() -> None:
    before = [Counts(20, 32), Counts(8, 16)]
    alone = step_probabilities(before, 0.8)[0]
    assert step_probabilities([*before, Counts(0, 16)], 0.8)[0] < alone


def test_the_last_step_is_right_by_its_own_answer_alone() -> None:
    assert step_probabilities([Counts(14, 32), Counts(1, 1, exact=True)], 0.8) == [1.0]
    assert step_probabilities([Counts(14, 32), Counts(0, 1, exact=True)], 0.8) == [0.0]
    assert step_probabilities([Counts(14, 32)], 0.8) == []


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=40)
def test_intervals_hold_the_share_and_the_mean(won: int, lost: int) -> None:
    counts = Counts(won, won + lost)
    interval, mean = value_interval(counts), posterior_mean(counts)
    assert 0.0 <= interval.low <= counts.value <= interval.high <= 1.0 or not counts.rollouts
    if mean is not None:
        assert interval.low <= mean <= interval.high
        assert 0.0 < mean < 1.0
        assert interval.high > interval.low


@pytest.mark.parametrize("value", [0.5, 0.9])
def test_intervals_hold_when_sampling_stops_where_it_looks_best(value: float) -> None:
    """The worst stopping rule: the moment at which the interval is furthest from the value."""
    rng = random.Random(1)
    covered = 0
    for _ in range(150):
        won, low, high = 0, 0.0, 1.0
        for tried in range(1, 65):
            won += rng.random() < value
            interval = value_interval(Counts(won, tried))
            low, high = max(low, interval.low), min(high, interval.high)
        covered += low <= value <= high
    assert covered >= 0.95 * 150


def test_eight_of_eight_is_no_certainty() -> None:
    assert value_interval(Counts(8, 8)) == Interval(pytest.approx((1 / (9 * 20)) ** (1 / 8)), 1.0)
    label = step_labels([1.0], start=0.5, rollouts=[8], start_rollouts=32)[0]
    assert label.standard_error is not None
    assert label.standard_error > 0.1
    exact = step_labels([1.0], start=0.5, rollouts=[None], method="hard", start_rollouts=32)[0]
    assert exact.standard_error == 0.0


def test_intervals_of_progress() -> None:
    before, after = Counts(16, 32), Counts(8, 8)
    ratio = progress_interval(Method.RATIO, before, after)
    assert ratio.low < 2.0 < ratio.high
    difference = progress_interval(Method.DIFFERENCE, before, after)
    assert difference.low < 0.5 < difference.high
    assert progress_interval(Method.HARD, before, after) == value_interval(after)
    assert progress_interval(Method.RATIO, Counts(0, 8), after).high == float("inf")
