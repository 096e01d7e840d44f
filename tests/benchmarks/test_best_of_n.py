import json
import math
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from genprm.benchmarks.best_of_n import evaluate
from genprm.data.inputs import BadRow
from genprm.data.pools import PoolItem, read_pool
from genprm.search.voting import pick_best, pick_majority, pick_weighted
from tests.benchmarks.shared import shared_data


def accuracies(table):
    return {(method.method, method.n): method.accuracy for method in table.methods}


def test_picks_by_hand():
    answers, rewards = ["4", "5", "4", "6"], [0.1, 2.0, 0.2, -3.0]
    assert pick_best(answers, rewards) == 1
    assert pick_majority(answers) == 0
    assert pick_weighted(answers, rewards) == 0
    # sigmoid(4) = 0.98 > sigmoid(-0.1) + sigmoid(-0.1) = 0.95
    assert pick_weighted(["4", "5", "4"], [-0.1, 4.0, -0.1]) == 1
    assert pick_best(["a", "b"], [1.0, 1.0]) == 0
    assert pick_majority(["a", "b", "b", "a"]) == 0


def test_a_small_pool():
    items = [
        PoolItem("0", "p", ("s",) * 4, ("4", "5", "5", "4"), (False, True, True, False), (0.0, 3.0, -9.0, 1.0)),
        PoolItem("1", "q", ("s",) * 4, ("1", "2", "3", "4"), (False, False, False, True), (4.0, 1.0, 2.0, 3.0)),
    ]
    got = accuracies(evaluate(items))
    assert got["pass@1", 4] == (0.5 + 0.25) / 2
    assert [got["pass@n", n] for n in (1, 2, 4)] == [0.0, 0.5, 1.0]
    assert [got["best-of-n", n] for n in (1, 2, 4)] == [0.0, 0.5, 0.5]
    assert got["majority", 4] == 0.0
    assert got["weighted", 4] == 0.0
    judged = evaluate(items, [[None, 0.0, 1.0, None], [None, None, None, 0.5]])
    assert accuracies(judged)["best-of-n", 4] == 1.0
    assert judged.unscored == 5


def test_a_pool_without_rewards_has_no_best():
    item = PoolItem("0", "p", ("s",), ("4",), (True,), None)
    assert {method for method, _ in accuracies(evaluate([item]))} == {"pass@1", "majority", "pass@n", "pass@k"}
    with pytest.raises(ValueError, match="empty"):
        evaluate([])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"code": ["s"], "pred": ["1"], "score": [True]}, '"question" must be a text'),
        ({"question": "q", "code": ["s"], "pred": ["1"], "score": []}, "as many solutions as answers"),
        ({"question": "q", "code": "s", "pred": ["1"], "score": [True]}, '"code" must be a list'),
        ({"question": "q", "code": ["s"], "pred": ["1"], "score": [True], "pred_score": ["x"]}, "must be a number"),
        ([1], "must be a JSON object"),
    ],
)
def test_rows_that_are_no_pool(row, reason, tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(json.dumps(row))
    (bad,) = read_pool([path])
    assert isinstance(bad, BadRow)
    assert reason in bad.reason


@pytest.mark.shared_data
def test_the_real_pool_against_an_independent_computation():
    path = shared_data("bon/qwen_math_cot_50.jsonl")
    got = accuracies(evaluate(list(read_pool([path])), resamples=200))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    size = len(rows)
    assert size == 50
    assert got["pass@1", 8] == pytest.approx(sum(sum(row["score"]) for row in rows) / (8 * size))
    assert got["pass@n", 8] == sum(any(row["score"]) for row in rows) / size
    best = majority = weighted = 0
    for row in rows:
        rewards = [reward for (reward,) in row["pred_score"]]
        best += row["score"][rewards.index(max(rewards))]
        winner, _ = Counter(row["pred"]).most_common(1)[0]
        majority += row["score"][row["pred"].index(winner)]
        weights = defaultdict(float)
        for answer, reward in zip(row["pred"], rewards, strict=True):
            weights[answer] += 1 / (1 + math.exp(-reward))
        weighted += row["score"][row["pred"].index(max(weights, key=weights.get))]
    assert got["best-of-n", 8] == best / size
    assert got["majority", 8] == majority / size
    assert got["weighted", 8] == weighted / size
    # The first two solutions against every pair: the same in expectation, so within what 50 problems allow.
    pairs = [any(pair) for row in rows for pair in combinations(row["score"], 2)]
    assert got["pass@n", 2] == pytest.approx(sum(pairs) / len(pairs), abs=0.1)
    assert got["pass@k", 2] == pytest.approx(sum(pairs) / len(pairs))


def test_blank_and_missing_answers_of_a_pool_do_not_vote(tmp_path):
    path = tmp_path / "pool.jsonl"
    row = {"question": "q", "code": ["s"] * 5, "pred": ["", None, " ", "4", "None"], "score": [0, 0, 0, 1, 0]}
    path.write_text(json.dumps(row))
    (item,) = read_pool([path])
    assert item.answers == (None, None, None, "4", "None")
    assert accuracies(evaluate([item]))["majority", 5] == 1.0
