import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm.search.voting import (
    LARGEST,
    Aggregate,
    pass_at_k,
    pick_best,
    pick_majority,
    pick_weighted,
    powers_of_two,
    reward,
)
from genprm.types import logit, sigmoid

scores = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=8)


@given(scores)
def test_rewards_are_log_odds_of_the_aggregate(values: list[float]):
    def score(how: Aggregate) -> float:
        found = reward(values, how)
        assert found is not None
        return sigmoid(found)

    assert score(Aggregate.LAST) == pytest.approx(values[-1])
    assert score(Aggregate.MIN) == pytest.approx(min(values))
    assert score(Aggregate.MEAN) == pytest.approx(sum(values) / len(values))
    assert score(Aggregate.PRODUCT) == pytest.approx(math.prod(values), rel=1e-6)


def test_log_odds_keep_apart_what_scores_do_not():
    ones = [1.0, 1.0]
    assert reward(ones, Aggregate.MIN, [40.0, 50.0]) == 40.0
    assert reward(ones, Aggregate.LAST, [40.0, 50.0]) == 50.0
    longer = reward([1.0] * 3, Aggregate.PRODUCT, [40.0] * 3)
    assert longer == pytest.approx(40.0 - math.log(3))
    assert reward([0.0], Aggregate.MEAN) == -LARGEST
    assert reward([1.0], Aggregate.PRODUCT) == LARGEST


@pytest.mark.parametrize("how", [how for how in Aggregate if how is not Aggregate.SOLUTION])
def test_a_missing_score_is_no_reward(how: Aggregate):
    assert reward([0.5, None], how) is None
    assert reward([], how) is None


def test_a_whole_is_not_made_of_steps():
    with pytest.raises(ValueError, match="does not come from its steps"):
        reward([0.5], Aggregate.SOLUTION)


def test_picks():
    answers = ["4", None, "5", "4", "6"]
    rewards = [0.1, 9.0, 2.0, None, -3.0]
    assert pick_best(answers, rewards) == 2
    assert pick_majority(answers) == 0
    assert pick_weighted(answers, rewards) == 2
    assert pick_weighted(["4", "5", "4"], [0.0, 1.0, 0.0]) == 0
    for pick in (pick_best, pick_majority, pick_weighted):
        assert pick([None, None], [1.0, 2.0]) is None
        assert pick([], []) is None
        assert pick([None, "7"], [5.0, None]) == 1


@given(st.lists(st.tuples(st.sampled_from(["1", "2", None]), st.one_of(st.none(), st.floats(-9, 9))), max_size=9))
def test_what_is_picked_has_an_answer(found):
    answers, rewards = [a for a, _ in found], [r for _, r in found]
    for pick in (pick_best, pick_majority, pick_weighted):
        picked = pick(answers, rewards)
        assert (picked is None) == all(answer is None for answer in answers)
        assert picked is None or answers[picked] is not None


def test_powers_of_two():
    assert powers_of_two(1) == [1]
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(12) == [1, 2, 4, 8, 12]


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, data: st.DataObject):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations([True] * correct + [False] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_of_nonsense():
    with pytest.raises(ValueError, match="is undefined"):
        pass_at_k(4, 5, 1)


def test_logit_of_a_reward_is_exact():
    assert reward([0.25], Aggregate.MIN) == logit(0.25)
