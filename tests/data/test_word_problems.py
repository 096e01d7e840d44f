import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm.data.word_problems import WordProblem, first_error, make_problems


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_every_problem_is_solved_by_its_own_solution(seed: int) -> None:
    for problem in make_problems(5, seed):
        assert 2 <= len(problem.calculations) <= 6
        assert len(problem.solution) == len(problem.calculations)
        assert first_error(problem, problem.solution) == -1
        assert problem.solution[-1].endswith(f"\\boxed{{{problem.answer}}}.")


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_numbers_come_from_the_problem_or_from_earlier_steps(seed: int) -> None:
    for problem in make_problems(5, seed):
        known = {int(word.strip("$.,?")) for word in problem.text.split() if word.strip("$.,?").isdigit()} | {2}
        for calculation in problem.calculations:
            assert {calculation.left, calculation.right} <= known
            known.add(calculation.value)


def test_a_seed_gives_the_same_problems_and_a_prefix_of_more() -> None:
    assert make_problems(50, 1)[:10] == make_problems(10, 1)
    assert make_problems(10, 1) != make_problems(10, 2)
    assert len({problem.text for problem in make_problems(500, 3)}) == 500


@pytest.fixture(scope="module")
def problem() -> WordProblem:
    return next(p for p in make_problems(50, 4) if len(p.calculations) == 4)


def test_a_wrong_value_is_found_where_it_stands(problem: WordProblem) -> None:
    rng = random.Random(0)
    for at, calculation in enumerate(problem.calculations):
        steps = list(problem.solution)
        wrong = calculation.value + rng.choice([-3, -1, 1, 7])
        steps[at] = steps[at].replace(
            calculation.equation, f"{calculation.left}{calculation.operator}{calculation.right} = {wrong}"
        )
        assert first_error(problem, steps) == at


def test_a_right_sum_that_is_not_asked_for_is_wrong(problem: WordProblem) -> None:
    steps = list(problem.solution)
    steps[1] = "Step 2: Then there are 1+1 = 2 of them."
    assert first_error(problem, steps) == 1


def test_the_order_of_terms_does_not_matter() -> None:
    made = (p for p in make_problems(50, 5) if p.calculations[0].operator == "*")
    problem = next(made)
    first = problem.calculations[0]
    swapped = problem.solution[0].replace(f"{first.left}*{first.right}", f"{first.right} * {first.left}")
    assert first_error(problem, [swapped, *problem.solution[1:]]) == -1


def test_the_last_step_must_give_the_answer(problem: WordProblem) -> None:
    without = [*problem.solution[:-1], problem.solution[-1].split(" The answer")[0]]
    assert first_error(problem, without) == len(without) - 1
    other = [*problem.solution[:-1], problem.solution[-1].replace(f"{{{problem.answer}}}", "{1}")]
    assert first_error(problem, other) == len(other) - 1
    assert first_error(problem, problem.solution[:-1]) == len(problem.solution) - 2


def test_lengths_can_be_chosen() -> None:
    assert {len(p.calculations) for p in make_problems(30, 6, steps=(3, 5))} == {3, 5}
    with pytest.raises(ValueError, match="2 to 6 steps, not \\[1\\]"):
        make_problems(1, 0, steps=[1])
