import json

import pytest

from genprm.benchmarks.comparison import compare_prmbench
from genprm.benchmarks.prmbench import PRMBenchItem, evaluate, prm_score, read_prmbench
from genprm.data.inputs import BadRow
from genprm.runs.rows import verify_row
from genprm.types import Judgement, StepJudgement
from tests.benchmarks.shared import shared_data


def bench_row(number, steps, errors, kind="confidence"):
    return {
        "idx": f"r{number}",
        "modified_question": f"q{number}",
        "modified_process": [f"s{index}" for index in range(steps)],
        "error_steps": errors,
        "classification": kind,
    }


def read(tmp_path, *rows):
    path = tmp_path / "prmbench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_prmbench([path]))


def judged(item, *scores):
    steps = tuple(StepJudgement(score, None, None, ()) for score in scores)
    return verify_row(item.row, Judgement(steps), seconds=0.0)


def test_by_hand(tmp_path):
    items = read(tmp_path, bench_row(0, 4, [2, 3]), bench_row(1, 2, [], "multi_solutions"), bench_row(2, 1, [1]))
    assert [sorted(item.error_steps) for item in items] == [[1, 2], [], [0]]
    assert [item.row.label for item in items] == [1, -1, 0]
    rows = {
        items[0].row.key: judged(items[0], 0.9, 0.2, 0.8, 0.1),
        items[1].row.key: judged(items[1], 0.9, None),
    }
    table = evaluate(items, rows)
    assert table.outcomes[items[0].row.key] == [1, 1, 1, 1]
    assert table.outcomes[items[1].row.key] == [1, 1, 0, 0]
    assert table.outcomes[items[2].row.key] == [0, 0, 0, 1]
    # Right steps: 2 judged right, 2 not; wrong ones: 1 judged wrong, 2 not.
    assert table.total.f1 == pytest.approx(2 * 2 / (2 * 2 + 2 + 2))
    assert table.total.f1_negative == pytest.approx(2 * 1 / (2 * 1 + 2 + 2))
    assert table.total.prm_score == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (table.total.missing, table.total.rows, table.total.steps) == (2, 3, 7)
    multi = next(kind for kind in table.classes if kind.name == "multi_solutions")
    assert (multi.f1, multi.f1_negative, multi.prm_score) == (pytest.approx(2 / 3), None, None)


def test_error_steps_that_the_solution_does_not_have(tmp_path):
    (item,) = read(tmp_path, bench_row(0, 2, [2, 5]))
    assert (item.error_steps, item.row.label) == (frozenset({1}), 1)


def test_a_score_of_exactly_a_half_is_not_right(tmp_path):
    (item,) = read(tmp_path, bench_row(0, 1, []))
    assert evaluate([item], {item.row.key: judged(item, 0.5)}).total.f1 == 0.0


def test_a_perfect_judge_and_one_that_always_agrees():
    assert prm_score([8, 0, 2, 0]) == 1.0
    assert prm_score([8, 0, 0, 2]) == pytest.approx((16 / 18) / 2)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "q"}, "needs"),
        (bench_row(0, 2, [0]), "numbers from 1"),
        (bench_row(0, 2, ["1"]), "numbers from 1"),
        (bench_row(0, 0, []), "steps"),
    ],
)
def test_rows_that_are_none(row, reason, tmp_path):
    (bad,) = read(tmp_path, row)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason


def test_comparison(tmp_path):
    items = read(tmp_path, *(bench_row(number, 3, [2]) for number in range(40)))
    good = evaluate(items, {item.row.key: judged(item, 0.9, 0.1, 0.9) for item in items})
    poor = evaluate(items, {item.row.key: judged(item, 0.9, 0.9, 0.9) for item in items})
    (found,) = compare_prmbench(poor, good)
    assert found.second == 1.0
    assert found.difference.value == pytest.approx(1.0 - poor.total.prm_score)
    assert found.difference.p < 0.01


@pytest.mark.shared_data
def test_the_real_file_is_read_whole():
    items = list(read_prmbench([shared_data("prmbench/subset400_target_data.jsonl")]))
    assert len(items) == 394
    assert all(isinstance(item, PRMBenchItem) for item in items)
    assert len({item.row.key for item in items}) == 394
    assert len({item.classification for item in items}) == 9
