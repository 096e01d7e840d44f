"""`train_sft` on the built-in model: resume, packing, adapters, masks, evaluation, and the folder that it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from genprm import prompts
from genprm.engines import BUILT_IN
from genprm.engines.tokenizer import Tokenizer
from genprm.prms import load_prm
from genprm.train.callbacks import LOG, read_log
from genprm.train.config import SftConfig
from genprm.train.cpu_loss import CpuSFTTrainer
from genprm.train.replay import IGNORE
from genprm.train.rows import TrainError
from genprm.train.running import Stopped, longest_of, training_arguments
from genprm.train.sft import prepare, train_sft
from tests.train.shared import losses

BUILT_IN_PATH = BUILT_IN["nano"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]


def critique(number: int, left: str, value: int) -> str:
    """The built-in judge's rationale for `left = value`."""
    exact = eval(left)
    shown = prompts.render("genprm/code_output", output=f"{exact} {abs(exact - value) < 0.01}")
    remark = "Every check is True, so the paragraph is correct."
    if exact != value:
        remark = "A check is False, so the paragraph is wrong."
    return (
        f"{prompts.render('genprm/analyze', paragraph=number)}The paragraph says {left} = {value}.\n</analyze>\n"
        f"{prompts.render('genprm/verify')}value = {left}\nprint(value, abs(value - {value}) < 0.01)\n```\n{shown}"
        f"{remark}\n</verify>\n{prompts.render('genprm/output')}{{{'Yes' if exact == value else 'No'}}}$\n</output>\n"
    )


def conversation(index: int) -> dict[str, Any]:
    """Two or three steps; every other solution ends in a wrong one."""
    lefts = [f"{index + 3}*{k + 2}" for k in range(2 + index % 2)]
    wrong = len(lefts) - 1 if index % 2 else -1
    values = [eval(left) + (k == wrong) for k, left in enumerate(lefts)]
    steps = [f"She buys {left} = {value} eggs." for left, value in zip(lefts, values, strict=True)]
    messages = [{"role": "system", "content": prompts.render("genprm/system")}]
    for k, step in enumerate(steps):
        user = prompts.render("genprm/first_turn", problem="How many eggs?", step=step) if k == 0 else step
        messages += [{"role": "user", "content": user}]
        messages += [{"role": "assistant", "content": critique(k + 1, lefts[k], values[k])}]
    return {"problem": "How many eggs?", "steps": steps, "label": wrong, "messages": messages}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text("".join(json.dumps(conversation(k)) + "\n" for k in range(6)))
    return path


def config(data: Path, **changes: Any) -> SftConfig:
    chosen = {"learning_rate": 1e-4, "batch_size": 2, "log_steps": 1, "dtype": "float32", "packing": False}
    base = {"data": str(data), "model": str(BUILT_IN_PATH), "temperature": 0.0, "bos": 1, "seam": "split"}
    return SftConfig(**{**base, **chosen, **changes})


@pytest.mark.parametrize(("log_steps", "seen", "logged"), [(1, 2, [1, 2, 3, 4, 5, 6]), (3, 3, [1, 3, 6])])
def test_a_run_that_was_stopped_goes_on_with_the_same_losses(
    log_steps: int, seen: int, logged: list[int], data: Path, tmp_path: Path
) -> None:
    """Stopped one step after `seen`, whether or not that step is logged."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    asked = config(data, epochs=2, save_steps=100, log_steps=log_steps)
    train_sft(asked, whole)

    def stop(line: str) -> None:
        if line.startswith(f"step {seen} of 6 "):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        train_sft(asked, parts, say=stop)
    assert stopped.value.step == seen + 1
    assert not (parts / "model.safetensors").exists()
    # A process that was killed while it wrote the next checkpoint.
    cut_off = parts / "checkpoints" / f"checkpoint-{seen + 2}"
    cut_off.mkdir()
    (cut_off / "trainer_state.json").write_text('{"global_step": ')
    said: list[str] = []
    train_sft(asked, parts, say=said.append)
    assert f"{cut_off} is incomplete, and is deleted" in said
    assert not cut_off.exists()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert [line["step"] for line in read_log(parts / LOG) if "loss" in line] == logged


_KILLED = """
import os, signal, sys
from pathlib import Path
from genprm.train.config import SftConfig
from genprm.train.sft import train_sft

def kill(line):
    if line.startswith("step 3 of 6 "):
        os.kill(os.getpid(), signal.SIGKILL)

train_sft(SftConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), say=kill)
"""


def test_a_run_that_was_killed_goes_on_with_the_same_losses(data: Path, tmp_path: Path) -> None:
    """SIGKILL after step 3, with the newest checkpoint after step 2: step 3 is trained and logged again."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    asked = config(data, epochs=2, save_steps=2)
    train_sft(asked, whole)
    command = [sys.executable, "-c", _KILLED, asked.model_dump_json(), str(parts)]
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL
    assert [line["step"] for line in read_log(parts / LOG)] == [1, 2, 3]
    train_sft(asked, parts)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert [line["step"] for line in read_log(parts / LOG) if "loss" in line] == list(range(1, 7))


def test_weights_from_scratch_are_random_by_the_seed(data: Path, tmp_path: Path) -> None:
    from genprm.train.sft import load_model

    first, again, other, trained = (
        load_model(config(data, **how))[0].get_input_embeddings().weight
        for how in ({"from_scratch": True}, {"from_scratch": True}, {"from_scratch": True, "seed": 1}, {})
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == trained.shape
    assert first.std().item() == pytest.approx(0.02, rel=0.1)


def test_packed_and_adapted_runs_have_the_same_loss_on_the_same_tokens(data: Path, tmp_path: Path) -> None:
    one_step = {"batch_size": 16, "epochs": 1}
    first = [
        (train_sft(config(data, **one_step, **how), tmp_path / name), losses(tmp_path / name)[0])[1]
        for name, how in (
            ("plain", {}),
            ("padded", {"device_batch_size": 4}),
            ("packed", {"packing": True, "max_length": 1024}),
            ("lora", {"lora": True, "lora_rank": 4, "lora_alpha": 8}),
        )
    ]
    assert first == pytest.approx([first[0]] * 4, rel=1e-4)
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").exists()


def unsettle(model: Any) -> None:
    """Moves the weights, the same way for equal models: the built-in judge knows these rows too well to have a loss."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=source).to(weight.dtype)


def test_the_loss_and_its_gradients_are_those_of_the_learned_tokens_alone(data: Path, tmp_path: Path) -> None:
    """Against cross-entropy in float64 over all logits; TRL's own loss gives the same."""
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    asked = config(data)
    rows, _ = prepare(asked, 8192, Tokenizer.from_pretrained(str(BUILT_IN_PATH)))
    sequence = rows.rows[1]
    assert 0 < sum(label == IGNORE for label in sequence.labels) < len(sequence.labels)
    ids, labels = torch.tensor([sequence.input_ids]), torch.tensor([sequence.labels])
    reference = AutoModelForCausalLM.from_pretrained(BUILT_IN_PATH, dtype=torch.float64)
    unsettle(reference)
    logits = reference(input_ids=ids).logits
    logits.retain_grad()
    wanted = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORE)
    wanted.backward()
    assert wanted.item() > 0.1
    masked = [k for k, label in enumerate(sequence.labels[1:]) if label == IGNORE]
    assert not logits.grad[0, masked].any()

    from genprm.train.sft import load_model, to_dataset

    for kind in (CpuSFTTrainer, SFTTrainer):
        model, hf, _ = load_model(asked)
        unsettle(model)
        args = SFTConfig(output_dir=str(tmp_path), max_length=2048, **training_arguments(asked))
        trainer = kind(model=model, args=args, train_dataset=to_dataset(rows), processing_class=hf)
        batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        assert loss.detach().item() == pytest.approx(wanted.detach().item(), rel=1e-5)
        for (name, got), (_, exact) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
            furthest = (got.grad.double() - exact.grad).abs().max().item()
            assert furthest < 1e-3 * exact.grad.abs().max().item(), (kind, name)


@pytest.mark.bubblewrap
async def test_the_folder_is_a_judge(data: Path, tmp_path: Path) -> None:
    import asyncio

    held_out = tmp_path / "solutions.jsonl"
    held_out.write_text("".join(json.dumps(conversation(k)) + "\n" for k in range(4)))
    asked = config(data, eval_data=data, eval_limit=4, verify_data=held_out, sandbox="bubblewrap", verify_steps=2)
    out = tmp_path / "out"
    # Weights of a judge that knows these sums already: a few small steps must not take that away.
    trained = await asyncio.to_thread(train_sft, asked.model_copy(update={"learning_rate": 1e-6}), out)
    assert trained.metrics["eval_f1"] == 1.0
    assert trained.metrics["eval_verdict_accuracy"] == 1.0
    assert trained.metrics["verify_f1"] == 1.0
    assert trained.metrics["verify_f1_no_code"] < 1.0  # the built-in judge knows nothing without its code
    steps = [line["step"] for line in read_log(out / LOG) if "verify_f1" in line]
    assert steps == [2, 3]
    written = json.loads((out / "metrics.json").read_text())
    assert written["steps"] == 3
    assert written["data"]["critiques"] == 6
    card = (out / "README.md").read_text()
    assert "verify_f1" in card
    assert (out / "curves.png").stat().st_size > 5000
    assert json.loads((out / "genprm.json").read_text())["profile"]["assistant_marker"] is True
    prm = await load_prm(str(out), sandbox="bubblewrap")
    try:
        judged = await prm.judge("How many eggs?", ["She buys 3*2 = 6 eggs.", "She buys 3*3 = 10 eggs."])
    finally:
        await prm.close()
    assert [step.verdict for step in judged.steps] == ["Yes", "No"]


@pytest.mark.vllm
@pytest.mark.bubblewrap
@pytest.mark.slow
async def test_vllm_serves_the_folder_of_a_merged_adapter(data: Path, tmp_path: Path) -> None:
    import asyncio

    asked = config(data, max_steps=1, learning_rate=1e-6, lora=True, lora_rank=4, lora_alpha=8)
    await asyncio.to_thread(train_sft, asked, tmp_path / "out")
    prm = await load_prm(str(tmp_path / "out"), engine="vllm", sandbox="bubblewrap", max_model_len=1024)
    try:
        judged = await prm.judge("How many eggs?", ["She buys 3*2 = 6 eggs.", "She buys 3*3 = 10 eggs."])
    finally:
        await prm.close()
    assert [step.verdict for step in judged.steps] == ["Yes", "No"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: row.pop("messages"), "row 2: there are no `messages`"),
        (lambda row: row.update(steps=["one"]), "row 2: 3 critiques do not fit 1 steps"),
        (lambda row: row.update(input_ids=[1, 2], labels=[1]), "row 2: 1 labels do not fit 2 input_ids"),
        (
            lambda row: row.update(input_ids=[1, 2], labels=[-100, 3]),
            "label 1 is 3: it must be the id there, 2, or -100",
        ),
        (lambda row: row.update(input_ids=[1, 2], labels=[-100, -100]), "every label is masked"),
        (lambda row: row.update(input_ids=[1, 90000], labels=[-100, 90000]), "made with another"),
    ],
)
def test_a_bad_row_ends_the_run_before_it_begins(change: Any, says: str, tmp_path: Path) -> None:
    rows = [conversation(0), conversation(1)]
    change(rows[1])
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TrainError, match=says):
        train_sft(config(path), tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()
    tokenizer = Tokenizer.from_pretrained(str(BUILT_IN_PATH))
    kept, _ = prepare(config(path, bad_rows="skip"), 8192, tokenizer)
    assert (len(kept.rows), [row.row for row in kept.left_out]) == (1, [2])


def test_other_bad_input_says_what_to_do(data: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(str(BUILT_IN_PATH))
    with pytest.raises(TrainError, match=r"tokens exceed --max-length, 64"):
        prepare(config(data, max_length=64), 64, tokenizer)
    with pytest.raises(TrainError, match="empty: of 6 rows none can be trained on"):
        prepare(config(data, max_length=64, bad_rows="skip"), 64, tokenizer)
    with pytest.raises(TrainError, match=r"--max-length 9,000 exceeds the model's context of 8,192"):
        longest_of(config(data, max_length=9000), AutoConfig.from_pretrained(BUILT_IN_PATH))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(TrainError, match="the data set is empty"):
        prepare(config(tmp_path / "empty.jsonl"), 8192, tokenizer)
    with pytest.raises(TrainError, match="there is no data set"):
        prepare(config(tmp_path / "none.jsonl"), 8192, tokenizer)
    bare = tmp_path / "bare"
    shutil.copytree(BUILT_IN_PATH, bare, ignore=shutil.ignore_patterns("*.jinja"))
    with pytest.raises(TrainError, match="has no chat template"):
        train_sft(config(data, model=str(bare)), tmp_path / "out")
    with pytest.raises(ValueError, match="batch_size 2 is not a multiple of device_batch_size 3"):
        config(data, device_batch_size=3)


def test_the_command_resumes_refuses_another_configuration_and_starts_over(data: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from genprm.cli.main import app

    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(data.read_bytes())

    def run(*more: str) -> tuple[int, str]:
        given = ["train", "sft", str(rows), "--out", str(tmp_path / "out"), "--batch-size", "6", "--no-packing"]
        given += ["--epochs", "2"]
        done = CliRunner().invoke(app, [*given, "--log-steps", "1", *more])
        return done.exit_code, done.output

    code, said = run()
    assert code == 0
    # Two steps at 2e-6 change too little for bfloat16.
    assert "of the changed weights still differ once rounded to bfloat16" in said
    assert "of the changed weights still differ once rounded to bfloat16" in (tmp_path / "out/README.md").read_text()
    written = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    code, said = run("--learning-rate", "1e-3")
    assert code == 2
    assert "learning_rate: 2e-06 -> 0.001" in said
    with rows.open("a") as file:
        file.write(json.dumps(conversation(6)) + "\n")
    code, said = run()
    assert code == 2
    assert "data_sha256: '" in said
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written
    code, said = run("--learning-rate", "1e-3", "--clean", "--json")
    assert code == 0
    printed = json.loads(said[said.index('{"command"') :].splitlines()[0])  # after a progress bar
    assert (printed["command"], printed["config"]["learning_rate"]) == ("train sft", 1e-3)
    assert printed["metrics"] == json.loads((tmp_path / "out/metrics.json").read_text())
    code, said = run("--batch-size", "5", "--device-batch-size", "2")
    assert code == 2
    assert "batch_size 5 is not a multiple of device_batch_size 2" in said
    assert run("--lora-rank", "0")[0] == 2
