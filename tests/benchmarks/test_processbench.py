import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm.benchmarks.processbench import f1_score


def test_by_hand():
    score = f1_score([0, 2, None, -1, -1, 3], [0, 1, 4, -1, -1, -1])
    assert score.error_accuracy == pytest.approx(1 / 3)
    assert score.correct_accuracy == pytest.approx(2 / 3)
    assert score.f1 == pytest.approx(4 / 9)
    assert (score.errors, score.correct) == (3, 3)


def test_nothing_to_measure_on():
    assert f1_score([], []).f1 is None
    only_errors = f1_score([1], [1])
    assert (only_errors.f1, only_errors.error_accuracy, only_errors.correct_accuracy) == (None, 1.0, None)


def test_both_zero():
    assert f1_score([-1, 0], [0, -1]).f1 == 0.0


@pytest.mark.parametrize(("predictions", "labels"), [([0], []), ([-2], [0]), ([0], [-2])])
def test_wrong_input(predictions, labels):
    with pytest.raises(ValueError, match=r"do not fit|at least -1"):
        f1_score(predictions, labels)


@given(st.lists(st.tuples(st.none() | st.integers(-1, 5), st.integers(-1, 5))))
def test_the_mean_lies_between_its_parts(pairs):
    score = f1_score([p for p, _ in pairs], [t for _, t in pairs])
    assert score.errors + score.correct == len(pairs)
    if score.f1 is not None:
        assert score.error_accuracy is not None
        assert score.correct_accuracy is not None
        low, high = sorted((score.error_accuracy, score.correct_accuracy))
        assert low - 1e-12 <= score.f1 <= high + 1e-12
