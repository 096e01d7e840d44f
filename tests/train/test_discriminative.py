"""`train_discriminative` on tiny Qwen2 models: losses, labels, the folders of both layouts, and bad rows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from genprm.engines.tokenizer import Tokenizer
from genprm.prms import load_prm
from genprm.prms.discriminative.formats import FORMATS, SolutionWriter
from genprm.prms.discriminative.judge import load_discriminative
from genprm.train.config import DiscriminativeConfig
from genprm.train.discriminative import collate, layout_of, prepare, step_loss, train_discriminative
from genprm.train.replay import IGNORE
from genprm.train.rows import TrainError
from genprm.train.running import Stopped
from genprm.train.step_rows import step_targets
from tests.engines.conftest import VLLM_ENV, need_vllm
from tests.prms import tiny_models
from tests.train import shared
from tests.train.shared import losses, write

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]
LAYOUTS = ("qwen-prm", "token-classification")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 with the tokens and the template of Qwen2.5."""
    folder = tmp_path_factory.mktemp("base") / "qwen2"
    folder.mkdir()
    return tiny_models.save_model(folder, "qwen2", tiny_models.save_qwen_tokenizer(folder), initializer_range=0.1)


def solution(index: int) -> dict[str, Any]:
    return shared.solution(index, steps=4, problem=index)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", [solution(k) for k in range(8)])


def config(data: Path, base: Path, **changes: Any) -> DiscriminativeConfig:
    chosen = {"learning_rate": 1e-3, "batch_size": 4, "device_batch_size": 2, "log_steps": 1, "dtype": "float32"}
    return DiscriminativeConfig(**{"data": str(data), "model": str(base), **chosen, **changes})


def test_labels_of_every_kind_of_row_are_read() -> None:
    rpe = {
        "step_labels": [True, True, False, None],
        "mc": [0.75, 0.5, 0.0, None],
        "progress": [1.5, 0.9, 0.0, None],
        "label": 2,
    }
    assert step_targets(rpe, 4, 2, "hard") == [1, 1, 0, None]
    assert step_targets(rpe, 4, 2, "value") == [0.75, 0.5, 0.0, None]
    assert step_targets(rpe, 4, 2, "progress") == [1.0, 0.9, 0.0, None]
    # Undecided by the rollouts: only known labels are learned.
    assert step_targets({"step_labels": [True, None, None]}, 3, None, "hard") == [1, None, None]
    # ProcessBench: labels after the first wrong step are unknown.
    assert step_targets({}, 3, 1, "hard") == [1, 0, None]
    assert step_targets({}, 3, -1, "hard") == [1, 1, 1]
    # TRL's old rows say it of every step, PRM800K's and others' with other words; soft labels are taken as they are.
    assert step_targets({"labels": [True, False, True]}, 3, None, "hard") == [1, 0, 1]
    assert step_targets({"labels": ["+", "-", -1, 1]}, 4, None, "hard") == [1, 0, 0, 1]
    assert step_targets({"labels": [0.25, 1.0]}, 2, None, "value") == [0.25, 1.0]
    # A blank step at the end does not count.
    assert step_targets({"labels": [True, False, True], "completions": ["a", "b", " "]}, 2, None, "hard") == [1, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_loss_and_its_gradients_are_those_of_the_labelled_steps_alone(
    data: Path, base: Path, layout: str, tmp_path: Path
) -> None:
    """Against the formula in float64, a solution at a time; the trainer's split of a step changes nothing."""
    rows = [solution(k) for k in range(3)]
    rows[0] = {"prompt": "Add.", "completions": ["1 + 1 = 2", "2 + 2 = 5"], "labels": [0.9, 0.2]}
    asked = config(write(tmp_path / "rows.jsonl", rows), base, layout=layout)
    writer = SolutionWriter(FORMATS[layout], Tokenizer.from_pretrained(str(base)))
    found = prepare(asked, writer, 512)[0].made
    folder = tiny_models.save_model(
        tmp_path / "model",
        "qwen2-prm" if layout == "qwen-prm" else "qwen2-tokens",
        writer._tokenizer.vocab_size,
        classifier_dropout=0.0,
    )
    kind: Any = tiny_models.Qwen2ForProcessRewardModel
    if layout != "qwen-prm":
        from transformers import Qwen2ForTokenClassification as kind
    exact = kind.from_pretrained(folder, dtype=torch.float64)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in found:
        logits = exact(input_ids=torch.tensor([row.input_ids])).logits[0]
        for position in row.positions:
            if (p := row.labels[position]) != IGNORE:
                scores = logits[position].log_softmax(-1)
                total -= p * scores[1] + (1 - p) * scores[0]
                count += 1
    (total / count).backward()
    assert count == 2 + 2 + 4  # the row in the middle ends in a wrong step after one right one
    model = kind.from_pretrained(folder, dtype=torch.float32)
    inputs = collate([{"input_ids": row.input_ids, "labels": row.labels} for row in found])
    loss = step_loss(model, inputs) / count
    loss.backward()
    assert loss.item() == pytest.approx((total / count).item(), rel=1e-5)
    for (name, got), (_, wanted) in zip(model.named_parameters(), exact.named_parameters(), strict=True):
        furthest = (got.grad.double() - wanted.grad).abs().max().item()
        assert furthest <= 1e-3 * max(1e-3, wanted.grad.abs().max().item()), name


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_it_learns_and_its_folder_judges_as_the_evaluation_says(
    data: Path, base: Path, layout: str, tmp_path: Path
) -> None:
    """A forward pass in the trainer, and `genprm verify` on the folder, score alike."""
    asked = config(data, base, layout=layout, epochs=25, eval_data=data, eval_steps=50)
    trained = await asyncio.to_thread(train_discriminative, asked, tmp_path)
    assert losses(tmp_path)[0] > 0.4
    assert trained.metrics["eval_loss"] < 0.2
    assert trained.metrics["eval_f1"] > 0.9
    prm = await load_prm(str(tmp_path))
    try:
        assert prm.facts["family"] == layout
        judged = await asyncio.gather(*(prm.judge(row["problem"], row["steps"]) for row in map(solution, range(8))))
    finally:
        await prm.close()
    found = [judgement.first_error == solution(k)["label"] for k, judgement in enumerate(judged)]
    accuracies = [sum(found[k::2]) / 4 for k in (0, 1)]
    assert [trained.metrics[f"eval_{name}_accuracy"] for name in ("correct", "error")] == accuracies
    card = (tmp_path / "README.md").read_text()
    assert "train discriminative" in card
    assert "eval_f1" in card
    assert json.loads((tmp_path / "metrics.json").read_text())["data"]["solutions"] == 8
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_split_steps_and_adapters_begin_with_the_same_loss(data: Path, base: Path, tmp_path: Path) -> None:
    """One batch of eight, in parts of one and of four, and with adapters (which begin as nothing)."""
    ways: list[dict[str, Any]] = [
        {"device_batch_size": 8},
        {"device_batch_size": 1},
        {"device_batch_size": 4, "lora": True, "lora_rank": 4},
    ]
    for layout in LAYOUTS:
        first: list[float] = []
        for number, how in enumerate(ways):
            out = tmp_path / f"{layout}-{number}"
            asked = config(data, base, layout=layout, batch_size=8, max_steps=1, **how)
            train_discriminative(asked, out)
            first += losses(out)
        # Dropout before TRL's head differs with the split.
        assert first == pytest.approx([first[0]] * 3, rel=1e-5 if layout == "qwen-prm" else 0.1)
        assert (tmp_path / f"{layout}-2" / "adapter" / "adapter_model.safetensors").exists()


def test_a_run_that_was_stopped_goes_on_with_the_same_losses(data: Path, base: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    asked = config(data, base, epochs=3)
    train_discriminative(asked, whole)

    def stop(line: str) -> None:
        if line.startswith("step 2 of 6 "):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train_discriminative(asked, parts, say=stop)
    assert not (parts / "model.safetensors").exists()
    train_discriminative(asked, parts)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)


@pytest.mark.vllm
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_vllm_scores_the_folder_as_transformers_does(
    data: Path, base: Path, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_vllm()
    for name, value in VLLM_ENV.items():
        monkeypatch.setenv(name, value)
    await asyncio.to_thread(train_discriminative, config(data, base, layout=layout, epochs=10), tmp_path)
    rows = [solution(k) for k in range(4)]
    scores: list[list[float]] = []
    for engine in ("transformers", "vllm"):
        prm = await load_discriminative(str(tmp_path), engine=engine, dtype="float32")  # type: ignore[arg-type]
        try:
            judged = await asyncio.gather(*(prm.judge(row["problem"], row["steps"]) for row in rows))
        finally:
            await prm.close()
        scores.append([step.log_odds for judgement in judged for step in judgement.steps if step.log_odds is not None])
    assert len(scores[0]) == 16
    assert max(scores[0]) - min(scores[0]) > 0.1
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": None}, r"row 2: there are no labels: `labels`, `step_labels` or `label` is wanted"),
        ({"labels": [True]}, r"row 2: 1 `labels` do not fit 4 steps"),
        ({"step_labels": [True] * 5}, r"row 2: 5 `step_labels` do not fit 4 steps"),
        ({"labels": [True, 2, True, True]}, r"`labels` of step 1 must be true, false or a number from 0 to 1, not 2"),
        ({"step_labels": [None] * 4}, r"row 2: no step has a label that is known"),
        ({"label": 7}, r'row 2: "label" must be -1'),
        ({"steps": []}, r'row 2: "steps" must be a list with at least one text'),
        ({"problem": None, "steps": None}, r'row 2: a row needs "problem"'),
        ({"steps": ["1 + 1 = 2 " * 300] * 4}, r"row 2: [\d,]+ tokens exceed --max-length, 512"),
        ({"solutions": [], "samples": {}}, r"row 2: this is a row of a run of `genprm label`: pass the run's folder"),
    ],
)
def test_a_bad_row_ends_the_run_before_it_begins(change: dict[str, Any], says: str, base: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [solution(0), {**solution(1), **change}])
    with pytest.raises(TrainError, match=says):
        train_discriminative(config(path, base), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    writer = SolutionWriter(FORMATS["qwen-prm"], Tokenizer.from_pretrained(str(base)))
    kept, _ = prepare(config(path, base, bad_rows="skip"), writer, 512)
    assert (len(kept.made), [row.row for row in kept.left_out]) == (1, [2])


def test_other_bad_input_says_what_to_do(data: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="--labels value learns: `genprm label` writes it"):
        train_discriminative(config(data, base, labels="value"), tmp_path)
    negative = write(tmp_path / "difference.jsonl", [{**solution(0), "progress": [-0.2, 0, 0, 0]}])
    with pytest.raises(TrainError, match=r"not -0.2 \(--method ratio makes progress"):
        train_discriminative(config(negative, base, labels="progress"), tmp_path)
    long = write(tmp_path / "long.jsonl", [{**solution(0), "steps": ["1 + 1 = 2 " * 300], "label": 0}])
    with pytest.raises(TrainError, match=r"empty: of 1 rows none can be trained on; the first: .* tokens exceed"):
        train_discriminative(config(long, base, bad_rows="skip"), tmp_path)
    nano = DiscriminativeConfig(data=str(data), model="nano", layout="qwen-prm")
    with pytest.raises(TrainError, match=r"its tokenizer has no <extra_0>\. Use --layout token-classification"):
        train_discriminative(nano, tmp_path)
    assert layout_of(config(data, base), Tokenizer.from_pretrained(str(base))) == "qwen-prm"
    assert not (tmp_path / "checkpoints").exists()


def test_the_command_trains_what_verify_loads_and_refuses_another_configuration(
    data: Path, base: Path, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from genprm.cli.main import app

    def genprm(*given: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(one) for one in given], env={"COLUMNS": "200"})
        return done.exit_code, done.output

    common = ["--model", base, "--max-steps", 1, "--batch-size", 4, "--log-steps", 1]
    kinds: list[tuple[str, list[object], str, str]] = [
        ("discriminative", ["--layout", "qwen-prm"], "--labels", "labels: 'hard' -> 'value'"),
        ("implicit", ["--reference-cache", tmp_path / "cache"], "--objective", "objective: 'ce' -> 'dpo'"),
    ]
    for kind, own, option, says in kinds:
        out = tmp_path / kind
        command = ["train", kind, data, "--out", out, *common, *own]
        code, said = genprm(*command, "--eval-data", data)
        assert code == 0, said
        assert "eval f1" in said
        code, printed = genprm("show", out, "--json")
        assert code == 0, printed
        assert json.loads(printed)["metrics"]["steps"] == 1
        assert "eval f1" in genprm("show", out)[1]
        judged = ["verify", data, "--model", out, "--out", tmp_path / f"{kind}-judged"]
        code, said = genprm(*judged, *(own if kind == "implicit" else []))
        assert code == 0, said
        rows = [json.loads(line) for line in (tmp_path / f"{kind}-judged" / "rows.jsonl").read_text().splitlines()]
        assert len(rows) == 8
        assert all(0 < score < 1 for row in rows for score in row["scores"])
        written = (out / "model.safetensors").stat().st_mtime_ns
        code, said = genprm(*command, option, "value" if option == "--labels" else "dpo")
        assert code == 2
        assert says in said.replace('"', "'"), said
        assert (out / "model.safetensors").stat().st_mtime_ns == written
