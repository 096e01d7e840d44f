"""`genprm.rewards`: a policy cannot game the rewards, for any scores."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm.rewards import (
    Norm,
    gated_advantages,
    gated_reward,
    min_form,
    outcome_advantages,
    overlong_penalty,
    process_score,
    step_advantages,
    step_credit,
)
from genprm.search.voting import Aggregate

SCORE = st.floats(0, 1)
STEPS = st.lists(SCORE, min_size=1, max_size=6)
WEIGHT = st.floats(0, 0.99)
NORM = st.sampled_from(Norm)


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[list[float]], list[bool | None]]:
    scores = draw(st.lists(STEPS, min_size=1, max_size=8))
    correct = draw(st.lists(st.sampled_from([True, False, None]), min_size=len(scores), max_size=len(scores)))
    return scores, correct


@given(STEPS, STEPS, WEIGHT)
def test_a_wrong_answer_earns_less_than_any_right_one(right: list[float], wrong: list[float], weight: float) -> None:
    lowest = gated_reward(right, correct=True, weight=weight)
    assert lowest is not None
    assert gated_reward(wrong, correct=False, weight=weight) == 0.0 < lowest <= 1.0


@given(STEPS, STEPS, st.integers(0, 6), WEIGHT)
def test_added_steps_never_raise_the_reward(steps: list[float], added: list[float], at: int, weight: float) -> None:
    before = gated_reward(steps, correct=True, weight=weight)
    after = gated_reward([*steps[:at], *added, *steps[at:]], correct=True, weight=weight)
    assert before is not None
    assert after is not None
    assert after <= before


def test_the_mean_would_rise_with_easy_steps() -> None:
    # The case that the default guards against: with the mean, thirty easy steps hide a wrong one.
    assert process_score([0.1, *[0.99] * 30], Aggregate.MEAN) == pytest.approx(0.961, abs=1e-3)
    assert process_score([0.1, *[0.99] * 30]) == 0.1


def test_what_is_missing_is_none() -> None:
    assert gated_reward([0.9, None], correct=True) is None
    assert gated_reward([], correct=True) is None
    assert gated_reward([0.9], correct=None) is None
    assert gated_reward([None], correct=False) == 0.0  # a wrong answer need not be judged
    assert gated_reward([0.9], correct=True, violation="anything") == 0.0


@pytest.mark.parametrize("weight", [-0.1, 1.0, math.nan])
def test_a_weight_out_of_range(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be"):
        gated_reward([0.5], correct=True, weight=weight)


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan])
def test_a_score_out_of_range(score: float) -> None:
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\]"):
        process_score([0.5, score])


@given(groups(), WEIGHT, NORM)
def test_right_answers_stay_above_wrong_ones(
    group: tuple[list[list[float]], list[bool | None]], weight: float, norm: Norm
) -> None:
    scores, correct = group
    process = [process_score(steps) for steps in scores]
    advantages = gated_advantages(correct, process, weight=weight, norm=norm)
    by_step = step_advantages(scores, correct, weight=weight, norm=norm)
    right = [a for a, c in zip(advantages, correct, strict=True) if c]
    wrong = [a for a, c in zip(advantages, correct, strict=True) if c is False]
    if right and wrong:
        assert min(right) > max(wrong)
        worst = min(min(steps) for steps, c in zip(by_step, correct, strict=True) if c)
        assert worst > max(max(steps) for steps, c in zip(by_step, correct, strict=True) if c is False)
    assert all(a == 0 for a, c in zip(advantages, correct, strict=True) if c is None)


@given(groups(), st.data(), NORM)
def test_scores_of_wrong_answers_change_nothing(
    group: tuple[list[list[float]], list[bool | None]], data: st.DataObject, norm: Norm
) -> None:
    scores, correct = group
    others = [data.draw(STEPS) if c is not True else steps for steps, c in zip(scores, correct, strict=True)]
    credit, changed = (step_credit(some, correct, norm=norm) for some in (scores, others))
    for before, after, right in zip(credit, changed, correct, strict=True):
        if right:
            assert before == after
        else:
            assert not any(before)
            assert not any(after)


@given(groups(), NORM, WEIGHT)
def test_equal_scores_give_the_advantages_of_the_answers(
    group: tuple[list[list[float]], list[bool | None]], norm: Norm, weight: float
) -> None:
    scores, correct = group
    level = scores[0][0]
    alike = [[level] * len(steps) for steps in scores]
    outcome = outcome_advantages(correct, norm)
    expected = [[a] * len(steps) for a, steps in zip(outcome, alike, strict=True)]
    assert step_advantages(alike, correct, weight=weight, norm=norm) == expected


@given(groups(), STEPS, st.integers(0, 6), NORM)
def test_no_step_earns_by_being_added(
    group: tuple[list[list[float]], list[bool | None]], added: list[float], at: int, norm: Norm
) -> None:
    scores, correct = group
    before = step_credit(scores, correct, norm=Norm.RLOO)[0]
    at = min(at, len(scores[0]))
    longer = [*scores[0][:at], *added, *scores[0][at:]]
    after = step_credit([longer, *scores[1:]], correct, norm=Norm.RLOO)[0]
    # Undivided, the credit of one solution depends on the others only through their own scores.
    assert max(after) <= max(max(before), 0.0) + 1e-9
    # Under either norm, a solution below the others' mean has no step with praise.
    credit = step_credit([longer, *scores[1:]], correct, norm=norm)[0]
    if credit[0] < 0:
        assert max(credit) <= 0
    else:
        assert len(set(credit)) == 1


def test_blame_is_placed_and_praise_is_shared() -> None:
    credit = step_credit([[0.9, 0.1, 0.9], [0.9, 0.9], [0.2, 0.9]], [True, True, False], weight=0.5, norm=Norm.RLOO)
    assert credit[0] == pytest.approx([-0.4, -0.4, 0.0])
    assert credit[1] == pytest.approx([0.4, 0.4])
    assert credit[2] == [0.0, 0.0]


def test_noise_is_not_made_reward() -> None:
    credit = step_credit([[0.9001], [0.9]], [True, True], weight=0.5)
    assert abs(credit[0][0]) < 0.002  # divided by its own spread it would be 0.5


def test_advantages_of_answers_are_grpos() -> None:
    torch = pytest.importorskip("torch")
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    expected = (rewards - rewards.mean()) / rewards.std(correction=0)
    assert outcome_advantages([True, False, False, True, True]) == pytest.approx(expected.tolist(), rel=1e-6)
    rloo = [float(r - (rewards.sum() - r) / 4) for r in rewards]
    assert outcome_advantages([True, False, False, True, True], Norm.RLOO) == pytest.approx(rloo)


@given(STEPS, st.floats(0.001, 1.0))
def test_min_form_lies_between_minimum_and_mean(scores: list[float], temperature: float) -> None:
    total = math.fsum(min_form(scores, temperature))
    assert min(scores) - 1e-9 <= total <= math.fsum(scores) / len(scores) + 1e-9


def test_min_form_goes_to_the_minimum() -> None:
    assert math.fsum(min_form([0.9, 0.2, 0.8], 0.01)) == pytest.approx(0.2)
    assert min_form([]) == []
    with pytest.raises(ValueError, match="above 0"):
        min_form([0.5], 0)


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0), (80, 0), (90, -0.5), (100, -1), (10_000, -1)], ids=lambda value: str(value)
)
def test_overlong(length: int, expected: float) -> None:
    assert overlong_penalty(length, 100, 20) == pytest.approx(expected)


def test_overlong_margins() -> None:
    assert overlong_penalty(100, 100, 0) == 0.0  # a hard limit
    with pytest.raises(ValueError, match="margin"):
        overlong_penalty(1, 10, 11)


def test_the_standard_library_is_enough() -> None:
    # A trainer's environment has genprm without its dependencies.
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("genprm"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import genprm.rewards, genprm.guards, genprm.step_tokens, genprm.data.steps
print(genprm.rewards.gated_reward([0.5], correct=True))
"""
    done = subprocess.run([sys.executable, "-I", "-c", _with_path(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "0.75\n", done.stderr


def _with_path(code: str) -> str:
    import genprm

    root = str(next(iter(genprm.__path__))).rpartition("/")[0]
    return f"import sys; sys.path.insert(0, {root!r})\n{code}"
