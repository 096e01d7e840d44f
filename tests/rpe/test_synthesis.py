"""From labelled solutions to a training set, on the command line, with the generator as teacher."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from genprm.cli.main import app
from genprm.data.word_problems import WordProblem, make_problems
from genprm.grading.answers import Outcome
from genprm.rpe.budget import State
from genprm.rpe.labels import first_wrong
from genprm.rpe.rows import Drop, LabelRow, Samples, SolutionRow, StepLabelRow, SynthesisRow, ValueRow
from genprm.runs.folder import open_run, read_rows_of

PROBLEMS = 6


def solution(problem: WordProblem, wrong: int | None, label: int | None) -> SolutionRow:
    """A solution with this wrong step, labelled as if its first wrong step were `label`; None is undecided.

    An undecided one is right up to its last step, which the budget did not decide.
    """
    steps = list(problem.solution)
    if wrong is not None:
        steps[wrong] = f"Step {wrong + 1}: Now there are 1+1 = 2. The answer is \\boxed{{2}}."
    values = [ValueRow(successes=4, rollouts=8)] * len(steps)
    labels = [StepLabelRow(label=index != label, state=State.DECIDED, progress=1.0) for index in range(len(steps))]
    if label is None:
        labels[-1] = StepLabelRow(label=None, state=State.UNDECIDED, progress=0.8)
    outcome = Outcome.EQUAL if wrong is None else Outcome.DIFFERENT
    first_error = first_wrong([found.label for found in labels])
    return SolutionRow(steps=steps, outcome=outcome, copies=1, values=values, labels=labels, first_error=first_error)


def label_run(path: Path, problems: int) -> Path:
    """A run of `label`: a right, a wrong, a wrongly labelled and an undecided solution of each problem."""
    with open_run(path, command="label", config={"policy": "nano-policy"}) as run:
        for problem in make_problems(problems, 9):
            last = len(problem.solution) - 1
            row = LabelRow(
                key=problem.id,
                id=problem.id,
                problem=problem.text,
                answer=problem.answer,
                samples=Samples(right=16, wrong=16),
                solutions=[
                    solution(problem, None, -1),
                    solution(problem, last, last),
                    solution(problem, None, 0),
                    solution(problem, None, None),
                ],
            )
            run.add(row, problem.id)
    return path


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label_run(tmp_path_factory.mktemp("labels") / "run", PROBLEMS)


def synthesize(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["synthesize", *map(str, arguments), "--sandbox", "bubblewrap"])
    assert result.exit_code == 0, result.output + result.stderr
    return result


@pytest.fixture(scope="module")
def made(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthesized") / "run"
    synthesize(labels, "--out", out)
    return out


def test_what_both_agree_on_is_kept_and_the_rest_is_counted(made: Path) -> None:
    rows = list(read_rows_of(made, SynthesisRow))
    assert len(rows) == 4 * PROBLEMS
    metrics = json.loads((made / "metrics.json").read_text())
    assert (metrics["kept"], metrics["dropped_disagrees"]) == (2 * PROBLEMS, PROBLEMS)
    assert metrics["dropped_undecided"] == PROBLEMS
    assert metrics["kept_with_a_wrong_step"] == PROBLEMS
    assert metrics["snippets_ok"] == sum(len(row.steps) for row in rows if row.label is not None)


def test_an_undecided_solution_is_no_training_row_though_it_is_right(made: Path) -> None:
    undecided = {row.id for row in read_rows_of(made, SynthesisRow) if row.label is None}
    assert len(undecided) == PROBLEMS
    for row in read_rows_of(made, SynthesisRow):
        if row.id in undecided:
            assert (row.kept, row.dropped, row.messages, row.generated) == (False, Drop.UNDECIDED, [], 0)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(made / "dataset/data/train-00000-of-00001.parquet")
    assert len(table) == 2 * PROBLEMS
    assert not undecided & set(table["id"].to_pylist())


def test_load_dataset_opens_it(made: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    opened = datasets.load_dataset(str(made / "dataset"), split="train", cache_dir=str(tmp_path))
    assert len(opened) == 2 * PROBLEMS
    assert {message["role"] for message in opened[0]["messages"]} == {"system", "user", "assistant"}
    ends = [row["messages"][-1]["content"] for row in opened]
    assert sum("{No}$" in end for end in ends) == PROBLEMS
    card = (made / "dataset/README.md").read_text()
    assert "| kept | 12 |" in card
    assert '"teacher": "generator"' in card
    assert (made / "dataset/plots/first-error.png").stat().st_size > 1000


def test_the_same_command_goes_on_to_the_same_bytes(made: Path, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(made, out)
    lines = (out / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (out / "rows.jsonl").write_bytes(b"".join(lines[5:9]) + lines[0][:40])  # most rows are lost, one is torn
    synthesize(labels, "--out", out)
    for name in ("data/train-00000-of-00001.parquet", "plots/length.png"):
        assert (out / "dataset" / name).read_bytes() == (made / "dataset" / name).read_bytes()


def test_solutions_that_were_labelled_again_are_reviewed_again(tmp_path: Path) -> None:
    """A server's samples differ each time, and the new run of `label` has the same configuration."""
    source, out = label_run(tmp_path / "labels", 1), tmp_path / "run"
    synthesize(source, "--out", out)
    (row,) = read_rows_of(source, LabelRow)
    (problem,) = make_problems(1, 9)
    right, _, disagrees, undecided = row.solutions
    wrong = solution(problem, 0, 0)
    relabelled = right.model_copy(update={"first_error": 0})
    new = row.model_copy(update={"solutions": [relabelled, wrong, disagrees, undecided]})
    (source / "rows.jsonl").write_text(new.model_dump_json() + "\n")
    synthesize(source, "--out", out)
    assert len(list(read_rows_of(out, SynthesisRow))) == 6  # the two unchanged ones are not reviewed again
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(out / "dataset/data/train-00000-of-00001.parquet")
    assert [(one["steps"], one["label"]) for one in table.to_pylist()] == [(wrong.steps, 0)]


def test_a_run_of_something_else_is_refused(made: Path) -> None:
    result = CliRunner().invoke(app, ["synthesize", str(made)])
    assert result.exit_code == 2
    assert "not of `genprm label`" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_sft_trainer_takes_a_step_on_it(made: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from genprm.engines import BUILT_IN

    rows = datasets.load_dataset(str(made / "dataset"), split="train", cache_dir=str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(BUILT_IN["nano"], dtype="float32")
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "sft"),
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        warmup_steps=0,
        max_length=512,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
    )
    trainer = trl.SFTTrainer(
        model, args=settings, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(BUILT_IN["nano"])
    )
    result = trainer.train()
    assert result.training_loss > 0
    assert not before.equal(model.model.layers[0].mlp.up_proj.weight)
