import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm.benchmarks.processbench import binary_f1, blind_floor, f1_score, subset_of, tune_threshold, uniform_floor
from genprm.types import find_first_error
from tests.benchmarks.shared import shared_data


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


# ---- published tables ----------------------------------------------------------------------------------------------

# Accuracy on solutions with an error, on those without, and F1, for GSM8K, MATH, OlympiadBench and Omni-MATH, and the
# average (arXiv 2504.00891, tables 1 and 6).
PUBLISHED = {
    "GenPRM-1.5B": ((37.0, 92.7, 52.8), (57.1, 80.1, 66.6), (47.0, 66.5, 55.1), (45.2, 68.7, 54.5), 57.3),
    "GenPRM-1.5B Maj@8": ((34.8, 97.4, 51.3), (64.7, 87.7, 74.4), (57.2, 76.1, 65.3), (51.3, 80.1, 62.5), 63.4),
    "GenPRM-7B": ((67.7, 94.0, 78.7), (74.6, 87.0, 80.3), (68.3, 76.6, 72.2), (63.5, 77.4, 69.8), 75.2),
    "GenPRM-7B Maj@8": ((69.6, 96.9, 81.0), (80.5, 91.6, 85.7), (74.0, 83.5, 78.4), (70.0, 85.1, 76.8), 80.5),
    "GenPRM-32B": ((73.1, 96.4, 83.1), (79.4, 84.1, 81.7), (73.4, 72.2, 72.8), (70.3, 75.5, 72.8), 77.6),
    "GenPRM-32B Maj@8": ((74.9, 98.5, 85.1), (84.0, 88.7, 86.3), (79.0, 78.8, 78.9), (76.3, 84.2, 80.1), 82.6),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_f1_from_the_published_accuracies(model):
    *subsets, average = PUBLISHED[model]
    scores = []
    for error, correct, f1 in subsets:
        found, confirmed = round(10 * error), round(10 * correct)
        predictions = [1] * found + [0] * (1000 - found) + [-1] * confirmed + [0] * (1000 - confirmed)
        score = f1_score(predictions, [1] * 1000 + [-1] * 1000)
        assert 100 * score.f1 == pytest.approx(f1, abs=0.11)
        scores.append(score.f1)
    assert 100 * sum(scores) / 4 == pytest.approx(average, abs=0.06)


def test_never_finding_an_error_scores_0():
    assert f1_score([-1] * 4, [0, 1, -1, -1]).f1 == 0.0


# ---- floors --------------------------------------------------------------------------------------------------------


def test_the_floor_by_hand():
    floor = uniform_floor([0, -1, -1], [1, 1, 3])
    assert (floor.error_accuracy, floor.correct_accuracy) == (0.5, 0.375)
    assert floor.f1 == pytest.approx(2 * 0.5 * 0.375 / 0.875)
    assert uniform_floor([-1], [2]).f1 is None


@pytest.mark.shared_data
@pytest.mark.parametrize(("subset", "floor"), [("math", 15.6), ("olympiadbench", 10.9)])
def test_the_floor_of_the_real_subsets(subset, floor):
    rows = json.loads(shared_data(f"processbench/{subset}.json").read_text())
    labels, lengths = [row["label"] for row in rows], [len(row["steps"]) for row in rows]
    # The floors on record are single draws, which vary by about 1.
    assert 100 * uniform_floor(labels, lengths).f1 == pytest.approx(floor, abs=1.5)
    draw = random.Random(0)
    guesses = [f1_score([draw.randint(-1, n - 1) for n in lengths], labels).f1 for _ in range(30)]
    assert sum(guesses) / 30 == pytest.approx(uniform_floor(labels, lengths).f1, abs=0.01)
    assert f1_score([-1] * len(labels), labels).f1 == 0.0


def test_the_blind_floor_by_hand():
    # Up to two steps none is wrong, of longer ones step 1 is: three of four errors, both right ones.
    labels, lengths = [1, 1, 1, 0, -1, -1], [3, 4, 5, 3, 1, 2]
    floor = blind_floor(labels, lengths)
    assert (floor.error_accuracy, floor.correct_accuracy) == (0.75, 1.0)
    assert floor.f1 == pytest.approx(6 / 7)
    assert blind_floor([-1], [2]).f1 is None
    assert blind_floor([0, -1], [2, 2]).f1 == 0.0


@given(st.lists(st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(-1, n - 1), st.just(n))), min_size=1))
def test_the_blind_floor_is_the_best_rule(rows):
    labels, lengths = [label for label, _ in rows], [length for _, length in rows]
    rules = [[-1 if n <= m else min(k, n - 1) for n in lengths] for m in range(7) for k in range(6)]
    scores = [f1_score(rule, labels).f1 for rule in rules]
    assert blind_floor(labels, lengths).f1 == (None if scores[0] is None else pytest.approx(max(scores)))


@pytest.mark.shared_data
@pytest.mark.parametrize(("subset", "floor"), [("math", 20.3), ("olympiadbench", 18.3)])
def test_the_blind_floor_of_the_real_subsets(subset, floor):
    rows = json.loads(shared_data(f"processbench/{subset}.json").read_text())
    labels, lengths = [row["label"] for row in rows], [len(row["steps"]) for row in rows]
    assert 100 * blind_floor(labels, lengths).f1 == pytest.approx(floor, abs=0.05)


# ---- thresholds ----------------------------------------------------------------------------------------------------


def f1_at(threshold, scores, labels):
    return f1_score([find_first_error(row, threshold) for row in scores], labels).f1


score_rows = st.lists(
    st.tuples(
        st.lists(st.none() | st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.7, 1.0]), min_size=1, max_size=4),
        st.integers(-1, 3),
    ),
    min_size=2,
    max_size=12,
)


@given(score_rows)
def test_the_tuned_threshold_is_the_best_there_is(rows):
    scores = [row for row, _ in rows]
    labels = [min(label, len(row) - 1) for row, label in rows]
    tuned = tune_threshold(scores, labels)
    if len({label == -1 for label in labels}) < 2:
        assert tuned is None
        return
    grid = [number / 20 for number in range(-1, 23)]
    assert tuned.f1 == pytest.approx(max(f1_at(threshold, scores, labels) for threshold in grid))
    assert f1_at(tuned.threshold, scores, labels) == pytest.approx(tuned.f1)


whole_rows = st.lists(
    st.tuples(
        st.none() | st.lists(st.none() | st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), min_size=1, max_size=4),
        st.integers(-1, 3),
        st.none() | st.sampled_from([0.1, 0.5, 0.6, 0.9]),
        st.none() | st.none() | st.integers(-1, 3),
    ),
    min_size=2,
    max_size=12,
)


@given(whole_rows)
def test_it_is_the_best_with_scores_of_whole_solutions_named_steps_and_failed_rows(rows):
    rows = [(scores, min(label, len(scores or [0]) - 1), whole, named) for scores, label, whole, named in rows]
    labels = [label for _, label, _, _ in rows]

    def f1(threshold):
        predictions = [
            None if scores is None else named if named is not None else find_first_error(scores, threshold, whole)
            for scores, _, whole, named in rows
        ]
        return f1_score(predictions, labels).f1

    scores, _, solutions, named = zip(*rows, strict=True)
    tuned = tune_threshold(scores, labels, solutions=solutions, named=named)
    if tuned is None:
        assert len({label == -1 for label in labels}) < 2
        return
    assert tuned.f1 == pytest.approx(max(f1(number / 20) for number in range(-1, 23)))
    assert f1(tuned.threshold) == pytest.approx(tuned.f1)


def test_of_equal_thresholds_the_one_nearest_to_a_half_is_taken():
    assert tune_threshold([[0.9, 0.1], [0.8]], [1, -1]).threshold == 0.5
    assert tune_threshold([[0.9, 0.6], [0.8]], [1, -1]).threshold == pytest.approx(0.7)
    scores = [[0.5001, 0.49995], [0.5002, 0.50005]]
    assert f1_at(tune_threshold(scores, [1, -1]).threshold, scores, [1, -1]) == 1.0


# ---- right or wrong as a whole -------------------------------------------------------------------------------------


def test_binary_f1_by_hand():
    # One of two right ones found, one wrong one taken for right; one undecided counts as a false alarm.
    assert binary_f1([True, False, True, None], [True, True, False, False]) == pytest.approx(2 / 5)
    assert binary_f1([True, True], [True, True]) == 1.0
    assert binary_f1([False], [False]) is None


@pytest.mark.parametrize(
    ("identity", "file", "subset"),
    [
        ("gsm8k-12", "x.json", "gsm8k"),
        ("olympiadbench-0", "", "olympiadbench"),
        ("abc", "some/math.json", "math"),
        (None, "my.rows.jsonl", "my"),
        (None, "", "rows"),
        ("-3", "f.json", "f"),
    ],
)
def test_subsets(identity, file, subset):
    assert subset_of(identity, file) == subset
