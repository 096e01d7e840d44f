import random

import pytest

from genprm.benchmarks.processbench import f1_score
from genprm.benchmarks.statistics import (
    Hit,
    PairedHit,
    f1_difference,
    f1_interval,
    mcnemar,
    mean_difference,
    mean_interval,
)


def hits(found, missed, confirmed, alarmed):
    return [
        Hit(error, hit)
        for error, hit, count in (
            (True, True, found),
            (True, False, missed),
            (False, True, confirmed),
            (False, False, alarmed),
        )
        for _ in range(count)
    ]


def test_the_interval_is_that_of_resampling_rows_one_by_one():
    rows = hits(30, 20, 40, 10)
    interval = f1_interval([rows])
    draw = random.Random(0)
    samples = []
    for _ in range(2000):
        chosen = draw.choices(rows, k=len(rows))
        score = f1_score([0 if r.hit == r.error else -1 for r in chosen], [0 if r.error else -1 for r in chosen])
        samples.append(score.f1)
    samples.sort()
    assert interval.low == pytest.approx(samples[50], abs=0.015)
    assert interval.high == pytest.approx(samples[1949], abs=0.015)


def test_more_rows_and_more_subsets_make_it_narrower():
    def width(interval):
        return interval.high - interval.low

    one = width(f1_interval([hits(30, 20, 40, 10)]))
    assert width(f1_interval([hits(300, 200, 400, 100)])) == pytest.approx(one / 10**0.5, rel=0.1)
    assert width(f1_interval([hits(30, 20, 40, 10)] * 4)) == pytest.approx(one / 2, rel=0.1)


def test_no_interval_without_rows_of_both_kinds():
    assert f1_interval([hits(3, 2, 0, 0)]) is None
    assert f1_interval([]) is None
    assert f1_difference([[PairedHit(True, True, True)]]) is None


def test_a_judge_and_itself_do_not_differ():
    rows = [PairedHit(row.error, row.hit, row.hit) for row in hits(30, 20, 40, 10)]
    difference = f1_difference([rows])
    assert (difference.value, difference.interval.low, difference.interval.high) == (0.0, 0.0, 0.0)
    assert difference.p == 1.0


def test_a_clear_difference_and_a_small_one():
    better = [PairedHit(row.error, row.hit, True) for row in hits(30, 20, 40, 10)]
    difference = f1_difference([better])
    before = f1_score([0] * 30 + [-1] * 20 + [-1] * 40 + [0] * 10, [0] * 50 + [-1] * 50).f1
    assert difference.value == pytest.approx(1 - before)
    assert difference.interval.low > 0
    assert difference.p == pytest.approx(1e-4)
    small = [PairedHit(row.error, row.hit, row.hit) for row in hits(29, 20, 40, 10)] + [PairedHit(True, False, True)]
    assert f1_difference([small]).p > 0.3


def test_mcnemar():
    pairs = [(True, False)] * 2 + [(False, True)] * 10 + [(True, True)] * 50
    found = mcnemar(pairs)
    # 2 * (1 + 12 + 66) / 2^12
    assert (found.first_only, found.second_only, found.p) == (2, 10, pytest.approx(158 / 4096))
    assert mcnemar([(True, True)]).p == 1.0


def test_means():
    interval = mean_interval([1.0] * 30 + [0.0] * 20)
    assert interval.low == pytest.approx(0.46, abs=0.03)
    assert interval.high == pytest.approx(0.74, abs=0.03)
    gap = mean_difference([0.0] * 50, [1.0] * 25 + [0.0] * 25)
    assert gap.value == 0.5
    assert gap.p == pytest.approx(1e-4)
