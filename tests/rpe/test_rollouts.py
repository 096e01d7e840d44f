"""Rollouts of the built-in policy: real samples, real comparison of answers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from genprm.data.word_problems import WordProblem, first_error, make_problems
from genprm.engines import load_engine
from genprm.engines.base import Completion, Engine, Finish, Sampling
from genprm.engines.errors import EngineError
from genprm.grading.answers import AnswerChecker, Outcome
from genprm.rpe.budget import State
from genprm.rpe.dataset import label_metrics
from genprm.rpe.journal import Journal, Rollout
from genprm.rpe.labels import Method
from genprm.rpe.rollouts import Labeller, Settings
from genprm.rpe.rows import LabelRow, Samples

pytestmark = pytest.mark.slow


SETTINGS = Settings(solutions=4, first=16, more=8, most=32, temperature=1.0, max_tokens=200, budget=16, threshold=0.4)


class Counting:
    """An engine that counts generated tokens, and fails after some calls."""

    def __init__(self, engine: Engine, lasts: int | None = None) -> None:
        self.engine, self.lasts, self.calls = engine, lasts, 0
        self.finished = 0
        self.tokenizer, self.model_name = engine.tokenizer, engine.model_name
        self.max_model_len, self.capacity = engine.max_model_len, engine.capacity
        self.cache_tokens = engine.cache_tokens

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        self.calls += 1
        if self.lasts is not None and self.calls > self.lasts:
            raise EngineError("the server is gone")
        done = await self.engine.generate(prompt_ids, sampling, chain=chain)
        self.finished += 1
        return done

    async def choice_logprobs(self, *_: object, **__: object) -> list[float]:
        raise NotImplementedError

    async def prompt_logprobs(self, *_: object) -> list[float]:
        raise NotImplementedError

    async def close(self) -> None:
        pass


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine() -> AsyncIterator[Engine]:
    opened = await load_engine("transformers", "nano-policy", max_num_seqs=64)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def checker() -> AsyncIterator[AnswerChecker]:
    async with AnswerChecker(workers=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def problems() -> list[WordProblem]:
    return make_problems(5, 11, steps=(5,))


async def label(
    engine: Engine, checker: AnswerChecker, problem: WordProblem, folder: Path, settings: Settings = SETTINGS
) -> LabelRow:
    journal = Journal(folder, ())
    try:
        return await Labeller(engine, None, checker, journal, settings).label("k", problem.text, problem.answer)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        journal.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rows(
    engine: Engine, checker: AnswerChecker, problems: list[WordProblem], tmp_path_factory: pytest.TempPathFactory
) -> list[LabelRow]:
    folder = tmp_path_factory.mktemp("rollouts")
    return [await label(engine, checker, problem, folder / str(k)) for k, problem in enumerate(problems)]


@pytest.fixture(scope="module")
def mixed(rows: list[LabelRow]) -> int:
    """A problem that is solved now and then."""
    return next(index for index, row in enumerate(rows) if len(row.solutions) == 4)


def test_the_policy_errs_as_it_should(rows: list[LabelRow]) -> None:
    rate = sum(row.samples.right for row in rows) / sum(row.samples.right + row.samples.wrong for row in rows)
    assert 0.1 < rate < 0.95
    assert sum(row.samples.invalid for row in rows) <= 4


def test_as_many_right_as_wrong_solutions_are_picked(rows: list[LabelRow]) -> None:
    for row in rows:
        outcomes = [solution.outcome is Outcome.EQUAL for solution in row.solutions]
        if row.dropped is None:
            assert outcomes.count(True) <= 2
            assert outcomes.count(False) <= 2
            assert len({tuple(solution.steps) for solution in row.solutions}) == len(outcomes)
    assert any(len(row.solutions) == 4 for row in rows)


def test_labels_meet_the_truth(rows: list[LabelRow], problems: list[WordProblem]) -> None:
    pairs = [
        (solution.first_error, first_error(problem, solution.steps))
        for row, problem in zip(rows, problems, strict=True)
        for solution in row.solutions
    ]
    assert len(pairs) >= 8
    assert sum(found == truth for found, truth in pairs) >= 0.6 * len(pairs)


def test_values_are_shares_and_the_last_is_exact(rows: list[LabelRow]) -> None:
    for row in rows:
        for solution in row.solutions:
            *inner, last = solution.values
            assert [value.rollouts for value in inner] == [16] * len(inner)
            assert (last.exact, last.successes) == (True, int(solution.outcome is Outcome.EQUAL))
            assert all(found.standard_error is not None for found in solution.labels if found.progress)
            assert solution.first_error_estimate == solution.first_error


def test_a_fixed_budget_labels_no_step_after_the_first_wrong_one(rows: list[LabelRow]) -> None:
    wrong = [solution for row in rows for solution in row.solutions if solution.first_error not in (-1, None)]
    assert any(solution.first_error != len(solution.steps) - 1 for solution in wrong)
    for solution in wrong:
        assert solution.first_error is not None
        later = solution.labels[solution.first_error + 1 :]
        assert {(found.label, found.estimate, found.state) for found in later} <= {(None, None, State.AFTER)}
        assert all(found.progress is not None and found.rollouts for found in later)


async def test_nothing_is_paid_for_twice_and_the_end_is_the_same(
    engine: Engine,
    checker: AnswerChecker,
    problems: list[WordProblem],
    rows: list[LabelRow],
    mixed: int,
    tmp_path: Path,
) -> None:
    paid = Counting(engine)
    fresh = await label(paid, checker, problems[mixed], tmp_path / "once")
    assert fresh == rows[mixed]
    finished = 0
    for lasts in (5, 20, 30, 45, None):
        broken = Counting(engine, lasts)
        try:
            again = await label(broken, checker, problems[mixed], tmp_path / "broken")
        except EngineError:
            await asyncio.sleep(0)
        finished += broken.finished
    assert again == fresh
    # Rollouts in flight may be lost when an engine fails; finished ones are not.
    assert finished <= paid.calls + 4 * SETTINGS.first


async def test_an_adaptive_budget_costs_less(
    engine: Engine, checker: AnswerChecker, problems: list[WordProblem], mixed: int, tmp_path: Path
) -> None:
    settings = Settings(solutions=4, first=16, more=8, most=32, temperature=1.0, max_tokens=200)
    row = await label(engine, checker, problems[mixed], tmp_path, settings)
    prefixes = {tuple(s.steps[:n]) for s in row.solutions for n in range(1, len(s.steps))}
    assert 0 < row.rollouts < row.budget * len(prefixes)
    states = {found.state for solution in row.solutions for found in solution.labels}
    assert states & {State.DECIDED, State.INFERRED}


async def test_what_a_budget_leaves_open_has_no_label(
    engine: Engine, checker: AnswerChecker, problems: list[WordProblem], mixed: int, tmp_path: Path
) -> None:
    # Nearly nothing is that certain after so few rollouts.
    settings = Settings(solutions=4, first=16, more=8, most=32, temperature=1.0, max_tokens=200, confidence=0.9999)
    row = await label(engine, checker, problems[mixed], tmp_path, settings)
    opened = [s for s in row.solutions if any(found.state is State.UNDECIDED for found in s.labels)]
    assert opened
    for solution in opened:
        first = next(k for k, found in enumerate(solution.labels) if found.state is State.UNDECIDED)
        assert [found.label for found in solution.labels] == [True] * first + [None] * (len(solution.steps) - first)
        assert solution.first_error is None


class Hopeless(Counting):
    """A completer whose text never ends."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        return await super().generate(prompt_ids, replace(sampling, max_tokens=1), chain=chain)


async def test_a_completer_that_never_solves_the_problem_labels_nothing(
    engine: Engine, checker: AnswerChecker, problems: list[WordProblem], mixed: int, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, ())
    labeller = Labeller(engine, Hopeless(engine), checker, journal, SETTINGS)
    row = await labeller.label("k", problems[mixed].text, problems[mixed].answer)
    journal.close()
    assert (row.dropped, row.solutions) == ("never solved by the completer", [])
    assert row.samples.right > 0
    assert row.start is not None
    assert (row.start.successes, row.start.rollouts) == (0, SETTINGS.first)


class Repeating(Counting):
    """A policy that writes one right text nine times out of ten, and ten other right ones."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        self.calls += 1
        sort = self.calls % 20
        text = " Half.\nStep 2: \\boxed{7}" if sort else f" Rare {self.calls}.\nStep 2: \\boxed{{7}}"
        text = text if sort != 10 else f" Wrong {self.calls}.\nStep 2: \\boxed{{8}}"
        return Completion(text, tuple(self.tokenizer.encode(text)), Finish.EOS)


async def test_duplicates_are_picked_no_more_often_than_texts_that_came_once(
    engine: Engine, checker: AnswerChecker, tmp_path: Path
) -> None:
    settings = Settings(solutions=2, first=200, more=8, most=200, budget=1, max_tokens=50)
    frequent = 0
    for number in range(20):
        journal = Journal(tmp_path / str(number), ())
        row = await Labeller(Repeating(engine), None, checker, journal, settings).label(str(number), "What?", "7")
        journal.close()
        copies = [solution.copies for solution in row.solutions if solution.outcome is Outcome.EQUAL]
        frequent += copies[0] > 1
    assert frequent <= 8


def test_the_threshold_is_that_of_the_method() -> None:
    assert Settings().threshold == 0.8
    assert Settings(method=Method.DIFFERENCE, budget=8).threshold == -0.3
    assert Settings(method=Method.HARD, budget=8).threshold == 0.0
    assert Settings(method=Method.HARD, budget=8, threshold=0.2).threshold == 0.2


def test_pass_at_1_is_the_mean_over_problems_and_invalid_samples_are_shown() -> None:
    easy = Samples(right=30, wrong=2, invalid=5)
    hard = Samples(right=13, wrong=115, invalid=38)
    rows = [LabelRow(key=str(k), problem="p", answer="1", samples=s) for k, s in enumerate((easy, hard))]
    metrics = label_metrics(rows)
    assert metrics["pass_at_1"] == round((30 / 32 + 13 / 128) / 2, 4)
    assert metrics["solutions_invalid"] == 43


async def test_a_reference_answer_that_cannot_be_compared_is_not_used(
    engine: Engine, checker: AnswerChecker, tmp_path: Path
) -> None:
    problem = make_problems(1, 1)[0]
    journal = Journal(tmp_path, ())
    row = await Labeller(engine, None, checker, journal, SETTINGS).label("k", problem.text, "7" * 3000)
    journal.close()
    assert row.dropped == "reference answer: compared with itself it is unparseable"


def test_a_journal_forgets_torn_lines_and_finished_problems(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ())
    rollout = Rollout(Outcome.EQUAL, True, 12)
    journal.add("a", "x-0", rollout)
    journal.add("b", "x-0", rollout)
    journal.close()
    file = tmp_path / "rollouts.jsonl"
    file.write_bytes(file.read_bytes() + b'{"problem": "b", "name": "x-1", "outc')
    again = Journal(tmp_path, {"a"})
    assert again.find("a", "x-0") is None
    assert again.find("b", "x-0") == rollout
    assert again.find("b", "x-1") is None
    again.close()
    assert len(file.read_bytes().splitlines()) == 1


def test_an_adaptive_budget_is_for_ratios() -> None:
    with pytest.raises(ValueError, match="use a fixed one for the method 'hard'"):
        Settings(method=Method.HARD)
