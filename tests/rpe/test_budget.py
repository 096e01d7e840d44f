import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from genprm.rpe.budget import Plan, State, plan
from genprm.rpe.posterior import Counts, probability


def counts(most: int = 60) -> st.SearchStrategy[Counts]:
    return st.integers(0, most).flatmap(lambda n: st.integers(0, n).map(lambda won: Counts(won, n)))


def rolled_out(
    values: list[float], final: bool, *, budget: int = 400, seed: int | str = 0, search: bool = False, start: int = 0
) -> tuple[Plan, list[Counts]]:
    """Follows the plan on prefixes with these true values, the problem alone first, with `start` rollouts of it."""
    rng = random.Random(seed)
    given = Counts(sum(rng.random() < values[0] for _ in range(start)), start)
    found = [given, *(Counts() for _ in values[1:]), Counts(int(final), 1, exact=True)]
    while (now := plan(found, budget=budget, given=start, search=search)).prefix is not None:
        at = now.prefix
        won = sum(rng.random() < values[at] for _ in range(now.rollouts))
        found[at] = Counts(found[at].successes + won, found[at].rollouts + now.rollouts)
    return now, found


@given(counts(), counts(), st.sampled_from([0.5, 0.8, 1.0]))
@settings(deadline=None, max_examples=15)
def test_the_probability_is_that_of_two_beta_distributions(before: Counts, after: Counts, threshold: float) -> None:
    first = stats.beta(before.successes + 1, before.rollouts - before.successes + 1)
    second = stats.beta(after.successes + 1, after.rollouts - after.successes + 1)
    exact, _ = integrate.quad(lambda x: first.pdf(x) * second.sf(threshold * x), 0, 1, limit=200)
    assert probability(before, after, threshold) == pytest.approx(exact, abs=0.01)


@given(counts(), counts())
def test_more_successes_after_a_step_speak_for_it(before: Counts, after: Counts) -> None:
    better = Counts(after.successes + 1, after.rollouts + 1)
    assert probability(before, better, 0.8) >= probability(before, after, 0.8)
    assert probability(before, after, 0.9) <= probability(before, after, 0.8)


def test_the_last_step_is_decided_by_its_own_answer() -> None:
    right, _ = rolled_out([0.5], True)
    wrong, _ = rolled_out([0.5], False)
    assert (right.labels[0].label, wrong.labels[0].label) == (True, False)


def test_a_search_tests_a_right_solution_at_one_prefix() -> None:
    final, found = rolled_out([0.6, 0.7, 0.75, 0.85, 0.9], True, search=True)
    assert [label.label for label in final.labels] == [True] * 5
    assert [label.state for label in final.labels[:4]] == [State.INFERRED] * 4
    assert [c.rollouts > 0 for c in found[1:4]] == [False] * 3


@pytest.mark.parametrize("wrong", range(6))
@pytest.mark.parametrize("search", [True, False])
def test_the_first_wrong_step_is_found(wrong: int, search: bool) -> None:
    values = [0.5] + [0.6 + step / 12 if step < wrong else 0.0 for step in range(5)]
    final, _ = rolled_out(values, False, budget=4000, seed=wrong, search=search)
    assert [label.label for label in final.labels[: wrong + 1]] == [True] * wrong + [False]
    assert {label.state for label in final.labels[wrong + 1 :]} <= {State.AFTER}


def test_every_step_is_looked_at_by_default() -> None:
    final, _ = rolled_out([0.6, 0.7, 0.8, 0.9], True)
    assert {label.state for label in final.labels} == {State.DECIDED}


def missed(search: bool) -> tuple[float, float]:
    """How often an error is labelled right that the right steps around it hide, and the share of 64 rollouts a step."""
    hidden = spent = 0
    for number in range(200):
        wrong = number % 7
        values = [0.43]
        for step in range(7):
            values.append(min(1.0, values[-1] * (0.6 if step == wrong else 0.43 ** (-1 / 8))))
        final, found = rolled_out(values, True, budget=7 * 64, seed=f"masked {number}", search=search, start=32)
        hidden += final.labels[wrong].label is True
        spent += sum(count.rollouts for count in found[:-1]) - 32
    return hidden / 200, spent / (200 * 7 * 64)


@pytest.mark.slow
def test_an_error_that_right_steps_hide_is_not_missed() -> None:
    share_missed, cost = missed(search=False)
    assert share_missed <= 0.03
    assert cost <= 0.62
    assert missed(search=True)[0] > 0.25


def test_an_open_step_has_an_uncertain_estimate_and_so_have_later_ones() -> None:
    final, found = rolled_out([0.5, 0.4, 0.5, 0.6], True, budget=96, start=32)
    first = next(index for index, label in enumerate(final.labels) if label.state is State.UNDECIDED)
    assert final.labels[first].label is None
    for index, label in enumerate(final.labels[first:], first):
        if label.estimate is not None:
            assert label.estimate is (found[index + 1].value >= 0.8 * found[index].value)
    assert final.labels[first].estimate is not None


def test_a_value_on_the_threshold_stays_undecided_when_the_budget_is_spent() -> None:
    final, found = rolled_out([0.5, 0.4, 0.4], True, budget=64)
    assert State.UNDECIDED in {label.state for label in final.labels}
    assert all(label.label is None for label in final.labels if label.state in (State.UNDECIDED, State.AFTER))
    assert sum(c.rollouts for c in found[:-1]) <= 64


@given(st.lists(counts(40), min_size=2, max_size=8), st.booleans(), st.integers(0, 200), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_plan_never_exceeds_its_budget_and_labels_all_or_asks(
    found: list[Counts], final: bool, budget: int, search: bool
) -> None:
    now = plan([*found, Counts(int(final), 1, exact=True)], budget=budget, given=found[0].rollouts, search=search)
    assert len(now.labels) == len(found)
    if now.prefix is None:
        states = [label.state for label in now.labels]
        assert all((label.label is None) == (label.state in (State.UNDECIDED, State.AFTER)) for label in now.labels)
        if State.AFTER in states:
            assert now.labels[states.index(State.AFTER) - 1].label is not True
    else:
        assert sum(c.rollouts for c in found[1:]) + now.rollouts <= budget


def test_a_ratio_needs_a_threshold_above_zero() -> None:
    with pytest.raises(ValueError, match=r"above 0, not 0\.0"):
        plan([Counts(), Counts(1, 1, exact=True)], budget=8, threshold=0.0)


def test_bad_confidence_is_named() -> None:
    with pytest.raises(ValueError, match=r"below 1, not 1\.0"):
        plan([Counts(), Counts(1, 1, exact=True)], budget=8, confidence=1.0)
