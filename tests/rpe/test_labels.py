import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm.rpe import Method, dynamic_rollouts, first_wrong, step_labels

values = st.lists(st.sampled_from([k / 32 for k in range(33)]), min_size=1, max_size=12)
positive = st.lists(st.sampled_from([k / 32 for k in range(1, 17)]), min_size=1, max_size=12)


def test_a_case_by_hand() -> None:
    labels = step_labels([0.5, 0.5, 0.25, 0.25], start=0.5)
    assert [label.progress for label in labels] == [1.0, 1.0, 0.5, 1.0]
    assert [label.label for label in labels] == [True, True, False, True]


def test_everything_after_a_zero_is_zero() -> None:
    labels = step_labels([0.5, 0.0, 0.9, 1.0], start=0.5)
    assert [label.progress for label in labels] == [1.0, 0.0, 0.0, 0.0]
    assert [label.label for label in labels] == [True, False, False, False]


def test_a_first_step_after_a_hopeless_start_makes_no_progress_by_ratio() -> None:
    assert step_labels([0.5], start=0.0)[0].progress == 0.0


@pytest.mark.parametrize(
    ("method", "progress", "right"),
    [("ratio", 0.5, False), ("difference", -0.25, True), ("hard", 0.25, True)],
)
def test_three_methods(method: str, progress: float, right: bool) -> None:
    label = step_labels([0.25], start=0.5, method=method)[0]
    assert (label.progress, label.label) == (progress, right)


@given(positive, st.sampled_from([0.5, 0.25, 2.0]))
def test_the_ratio_does_not_depend_on_the_scale(mc: list[float], scale: float) -> None:
    plain = step_labels(mc, start=0.5)
    scaled = step_labels([value * scale for value in mc], start=0.5 * scale)
    assert [label.progress for label in plain] == pytest.approx([label.progress for label in scaled])


@given(values, st.floats(0, 2), st.floats(0, 2), st.sampled_from(Method))
def test_a_higher_threshold_never_makes_a_step_right(mc: list[float], one: float, other: float, method: Method) -> None:
    low, high = sorted((one, other))
    loose = step_labels(mc, start=0.5, method=method, threshold=low)
    strict = step_labels(mc, start=0.5, method=method, threshold=high)
    assert all(a.label or not b.label for a, b in zip(loose, strict, strict=True))


@given(values)
def test_after_a_zero_no_step_is_right(mc: list[float]) -> None:
    labels = step_labels(mc, start=0.5)
    if 0.0 in mc:
        assert not any(label.label for label in labels[mc.index(0.0) :])


@given(st.sampled_from([k / 32 for k in range(1, 33)]), st.integers(1, 10))
def test_equal_values_make_every_step_right(value: float, steps: int) -> None:
    assert all(label.label for label in step_labels([value] * steps, start=value))


def test_the_standard_error_is_what_simulation_gives() -> None:
    rng = random.Random(0)
    before, after, count = 0.6, 0.45, 400

    def mean(p: float) -> float:
        return sum(rng.random() < p for _ in range(count)) / count

    drawn = [mean(after) / mean(before) for _ in range(2000)]
    centre = sum(drawn) / len(drawn)
    spread = math.sqrt(sum((x - centre) ** 2 for x in drawn) / len(drawn))
    label = step_labels([after], start=before, rollouts=[count], start_rollouts=count)[0]
    assert label.standard_error == pytest.approx(spread, rel=0.08)
    assert label.rollouts == count


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"mc\[1\] must be between 0 and 1, not 1.5"):
        step_labels([0.5, 1.5], start=0.5)
    with pytest.raises(ValueError, match="1 numbers of rollouts for 2 steps"):
        step_labels([0.5, 0.5], start=0.5, rollouts=[8])
    with pytest.raises(ValueError, match="at least 1"):
        step_labels([0.5], start=0.5, rollouts=[0])


@given(st.permutations([[0.5, 0.25], [0.9, 0.9, 0.0], [0.1], [0.5, 0.5, 0.5]]))
def test_labels_do_not_depend_on_what_is_labelled_before(rows: list[list[float]]) -> None:
    together = {tuple(row): step_labels(row, start=0.5) for row in rows}
    assert together == {tuple(row): step_labels(row, start=0.5) for row in sorted(rows)}


@pytest.mark.parametrize(("rate", "rollouts"), [(0.0, 128), (0.09, 128), (0.1, 64), (0.89, 64), (0.9, 32), (1.0, 32)])
def test_harder_problems_get_more_rollouts(rate: float, rollouts: int) -> None:
    assert dynamic_rollouts(rate) == rollouts


def test_pass_at_1_is_a_rate() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        dynamic_rollouts(1.5)


@pytest.mark.parametrize(
    ("labels", "first"),
    [([True, True], -1), ([True, False, True], 1), ([None, False], None), ([True, None], None), ([False, None], 0)],
)
def test_the_first_wrong_step(labels: list[bool | None], first: int | None) -> None:
    assert first_wrong(labels) == first
