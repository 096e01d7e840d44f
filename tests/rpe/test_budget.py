import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from genprm.rpe.budget import Counts, Plan, State, plan, probability


def counts(most: int = 60) -> st.SearchStrategy[Counts]:
    return st.integers(0, most).flatmap(lambda n: st.integers(0, n).map(lambda won: Counts(won, n)))


def rolled_out(
    values: list[float], final: bool, *, budget: int = 400, seed: int = 0, search: bool = True
) -> tuple[Plan, list[Counts]]:
    """What the plan comes to when prefixes have these true values; those of the problem alone first."""
    rng = random.Random(seed)
    found = [Counts() for _ in values] + [Counts(int(final), 1, exact=True)]
    while (now := plan(found, budget=budget, search=search)).prefix is not None:
        at = now.prefix
        won = sum(rng.random() < values[at] for _ in range(8))
        found[at] = Counts(found[at].successes + won, found[at].rollouts + 8)
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


def test_a_right_solution_costs_one_prefix_and_not_one_a_step() -> None:
    final, found = rolled_out([0.6, 0.7, 0.75, 0.85, 0.9], True)
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


def test_every_step_is_looked_at_without_search() -> None:
    final, _ = rolled_out([0.6, 0.7, 0.8, 0.9], True, search=False)
    assert {label.state for label in final.labels} == {State.DECIDED}


def test_a_value_on_the_threshold_stays_undecided_when_the_budget_is_spent() -> None:
    final, found = rolled_out([0.5, 0.4, 0.4], True, budget=64)
    assert State.UNDECIDED in {label.state for label in final.labels}
    assert all(label.label is None for label in final.labels if label.state in (State.UNDECIDED, State.AFTER))
    assert sum(c.rollouts for c in found[1:-1]) <= 64


@given(st.lists(counts(40), min_size=2, max_size=8), st.booleans(), st.integers(0, 200), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_plan_never_exceeds_its_budget_and_labels_all_or_asks(
    found: list[Counts], final: bool, budget: int, search: bool
) -> None:
    now = plan([*found, Counts(int(final), 1, exact=True)], budget=budget, search=search)
    assert len(now.labels) == len(found)
    if now.prefix is None:
        states = [label.state for label in now.labels]
        assert all((label.label is None) == (label.state in (State.UNDECIDED, State.AFTER)) for label in now.labels)
        if State.AFTER in states:
            assert now.labels[states.index(State.AFTER) - 1].label is not True
    elif now.prefix > 0:
        assert sum(c.rollouts for c in found[1:]) + 8 <= budget


def test_bad_confidence_is_named() -> None:
    with pytest.raises(ValueError, match=r"below 1, not 1\.0"):
        plan([Counts(), Counts(1, 1, exact=True)], budget=8, confidence=1.0)
