"""ThinkPRM's data recipe: chains, filters, balance, and the data set."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from genprm.cli.main import app
from genprm.data.word_problems import make_problems
from genprm.engines import load_engine
from genprm.prms.profiles import ThinkPRMModel
from genprm.prms.thinkprm.judge import ThinkPRMJudge, ThinkProfile
from genprm.rpe.chains import (
    Filter,
    GeneratorChainTeacher,
    VerificationChain,
    agrees,
    chain_drop,
    chain_messages,
    clean,
    first_error_of,
)
from genprm.rpe.dataset import balanced, distinct
from genprm.rpe.rows import Drop, Message, SynthesisRow
from genprm.runs.folder import read_rows_of
from genprm.train.export import export, read_conversation
from tests.rpe.test_synthesis import PROBLEMS, label_run

GOOD = "Let's verify step by step:\nStep 1: Fine. The step is \\boxed{correct}.\n"
BAD = "Step 2: It should be 8. The step is \\boxed{incorrect}."


@pytest.mark.parametrize(
    ("text", "steps", "found"),
    [
        (GOOD + BAD, 2, 1),
        (GOOD + BAD, 4, 1),  # it stops at the first incorrect step, as it is told to
        (GOOD + BAD.replace("incorrect", "correct"), 2, -1),
        (GOOD, 2, None),  # a label is missing
        (BAD, 2, None),
        (GOOD + BAD.replace("incorrect", "\\text{incorrect}"), 2, 1),
        ("I am not sure.", 1, None),
        (GOOD + BAD + "\nStep 3: Fine. The step is \\boxed{correct}.", 3, 1),
    ],
)
def test_labels_are_read_off_a_chain(text: str, steps: int, found: int | None) -> None:
    assert first_error_of(text, steps) == found


def test_a_chain_is_cut_after_its_last_label() -> None:
    text = GOOD + "Step 2: No. The step is **\\boxed{\\text{Incorrect}}**.\n\nSo I would give it 3 points."
    assert clean(text) == GOOD + "Step 2: No. The step is **\\boxed{incorrect}**."
    assert clean("No label at all. ") == "No label at all."


@pytest.mark.parametrize(
    ("label", "found", "process", "outcome"),
    [(-1, -1, True, True), (2, 2, True, True), (2, 1, False, True), (2, -1, False, False), (-1, 0, False, False)],
)
def test_filters(label: int, found: int, process: bool, outcome: bool) -> None:
    assert agrees(label, found, Filter.PROCESS) is process
    assert agrees(label, found, Filter.OUTCOME) is outcome
    assert agrees(label, found, Filter.NONE)


def test_reasons_for_dropping_a_chain() -> None:
    chain = VerificationChain(GOOD + BAD, finished=True)
    assert chain_drop(1, chain, 1, Filter.PROCESS) is None
    assert chain_drop(None, None, None, Filter.PROCESS) is Drop.UNDECIDED
    assert chain_drop(1, VerificationChain(GOOD + BAD, finished=False), 1, Filter.PROCESS) is Drop.LENGTH
    assert chain_drop(1, chain, None, Filter.NONE) is Drop.LAYOUT
    assert chain_drop(0, chain, 1, Filter.PROCESS) is Drop.DISAGREES
    assert chain_drop(0, chain, 1, Filter.OUTCOME) is None


def kept(key: str, wrong: bool, text: str = "a chain") -> SynthesisRow:
    messages = [Message(role="user", content="?"), Message(role="assistant", content=f"{text} {key}")]
    first = 0 if wrong else -1
    return SynthesisRow(
        key=key, id=key, problem="p", steps=["s"], label=first, first_error=first, kept=True, teacher="t",
        messages=messages,
    )  # fmt: skip


def test_right_and_wrong_solutions_are_as_many_and_the_choice_is_the_same_each_time() -> None:
    rows = [kept(f"r{n}", wrong=False) for n in range(9)] + [kept(f"w{n}", wrong=True) for n in range(3)]
    made = balanced(rows)
    assert sum(row.kept for row in made) == 6
    assert sum(row.kept and row.first_error != -1 for row in made) == 3
    assert sum(row.dropped is Drop.BALANCE and not row.messages for row in made) == 6
    again = balanced(rows[::-1])
    assert {row.key for row in again if row.kept} == {row.key for row in made if row.kept}
    assert all(row.kept for row in balanced(rows[:9]))


def test_equal_chains_over_one_solution_are_kept_once() -> None:
    row = kept("a", wrong=True)
    rows = [row, row.model_copy(update={"key": "a-1"}), kept("b", wrong=True)]
    assert [made.dropped for made in distinct(rows)] == [None, Drop.DUPLICATE, None]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label_run(tmp_path_factory.mktemp("labels") / "run", PROBLEMS)


def synthesize(*arguments: object) -> Result:
    command = ["synthesize", *map(str, arguments), "--style", "thinkprm"]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def metrics_of(run: Path) -> dict[str, int]:
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def made(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chains") / "run"
    result = synthesize(labels, "--chains", "2", "--out", out)
    assert result.exit_code == 0, result.output + result.stderr
    return out


def test_the_command_keeps_chains_that_match_the_labels(made: Path) -> None:
    metrics = metrics_of(made)
    # Four solutions a problem: right, wrong, right but labelled wrong, undecided; the generator repeats its chains.
    assert metrics["solutions"] == 4 * 2 * PROBLEMS
    assert (metrics["kept"], metrics["kept_with_a_wrong_step"]) == (2 * PROBLEMS, PROBLEMS)
    assert metrics["dropped_duplicate"] == 2 * PROBLEMS
    assert metrics["dropped_disagrees"] == 2 * PROBLEMS
    assert metrics["dropped_undecided"] == 2 * PROBLEMS
    assert (metrics["chains"], metrics["in_layout"]) == (6 * PROBLEMS, 6 * PROBLEMS)
    assert (metrics["passes_process"], metrics["passes_outcome"]) == (4 * PROBLEMS, 4 * PROBLEMS)
    stored = json.loads((made / "run.json").read_text())["config"]
    assert (stored["temperature"], stored["max_tokens"]) == (0.1, 4096)
    card = (made / "dataset/README.md").read_text()
    assert "# Verification chains about solutions" in card


async def test_the_rows_are_what_thinkprm_is_asked_and_can_be_trained_on(made: Path) -> None:
    rows = [row for row in read_rows_of(made, SynthesisRow) if row.kept]
    assert rows
    engine = await load_engine("transformers", "nano-policy")
    judge = ThinkPRMJudge(engine)
    model = ThinkPRMModel(profile=ThinkProfile())
    for row in rows:
        user, assistant = row.messages
        assert user.content == judge.user_turn(row.problem, row.steps)
        assert assistant.content.endswith(f"Is the solution correct? {'Yes' if row.label == -1 else 'No'}")
        conversation = read_conversation(row.model_dump(), model)
        (sequence,) = await export(conversation, engine.tokenizer, model)
        learned = engine.tokenizer.decode([token for token in sequence.labels if token >= 0])
        assert assistant.content.partition("</think>")[0].strip() in learned
    await engine.close()


def test_a_limit_and_a_sample_count_solutions_with_all_their_chains(labels: Path, tmp_path: Path) -> None:
    assert synthesize(labels, "--limit", "3", "--out", tmp_path / "limit").exit_code == 0
    ids = [row.id for row in read_rows_of(tmp_path / "limit", SynthesisRow)]
    assert {ids.count(each) for each in ids} == {4}
    assert len(set(ids)) == 3
    chosen: list[set[str]] = []
    for seed in (0, 1):
        run = tmp_path / str(seed)
        assert synthesize(labels, "--sample", "3", "--seed", seed, "--out", run).exit_code == 0
        chosen.append({row.id for row in read_rows_of(run, SynthesisRow)})
    assert [len(each) for each in chosen] == [3, 3]
    assert chosen[0] != chosen[1]


def test_a_model_that_cannot_write_chains_has_all_of_them_dropped(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--teacher", "nano-policy", "--engine", "transformers", "--chains", "1", "--max-tokens", "40")
    result = synthesize(labels, *options, "--limit", "3", "--out", out)
    assert result.exit_code == 0, result.output + result.stderr
    metrics = metrics_of(out)
    assert metrics["kept"] == 0
    assert metrics["dropped_layout"] + metrics["dropped_length"] == 3
    assert metrics["generated_tokens"] > 0


def test_equal_chains_are_refused_before_a_model_writes_them(labels: Path, tmp_path: Path) -> None:
    result = synthesize(labels, "--temperature", "0", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "4 chains at temperature 0 are all the same" in " ".join(result.stderr.split())


async def test_the_generator_says_what_is_wrong() -> None:
    problem = make_problems(1, 9)[0]
    steps = [*problem.solution[:-1], "Step 9: Now there are 1+1 = 3. The answer is \\boxed{3}."]
    chain = await GeneratorChainTeacher().write(problem.text, steps, identity=problem.id, seed=0)
    assert "It says 1+1 = 3. This does not hold. The step is \\boxed{incorrect}." in chain.text
    assert first_error_of(chain.text, len(steps)) == len(steps) - 1
    messages = chain_messages(problem.text, steps, chain.text, correct=False)
    assert messages[1].content.endswith("</think>\nIs the solution correct? No")
