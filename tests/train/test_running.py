"""What is checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genprm.engines.errors import EngineError
from genprm.sandbox import SandboxError
from genprm.train.config import DiscriminativeConfig, ImplicitConfig, SftConfig
from genprm.train.discriminative import train_discriminative
from genprm.train.implicit_training import train_implicit
from genprm.train.rows import TrainError
from genprm.train.running import check_devices
from genprm.train.sft import train_sft
from tests.train.shared import write


@pytest.mark.parametrize(
    ("train", "config"),
    [(train_sft, SftConfig), (train_discriminative, DiscriminativeConfig), (train_implicit, ImplicitConfig)],
)
def test_several_gpus_need_a_launcher(
    train: Callable[..., Any], config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(TrainError, match=r"there are 4 GPUs.*`accelerate launch`.*CUDA_VISIBLE_DEVICES=0"):
        train(config(data="rows.jsonl"), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_devices()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [{"problem": "p", "steps": ["s"], "label": 0}, {"problem": "q", "steps": ["s"]}],
            r"line 2: a `label` is wanted",
        ),
        ([{"problem": "p"}], r"--verify-data .*rows.jsonl, line 1: "),
        ([], r"--verify-data .*rows.jsonl has no rows"),
    ],
)
def test_solutions_to_verify_are_read_before_the_model_is_loaded(rows: Any, says: str, tmp_path: Path) -> None:
    held_out = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(TrainError, match=says):
        train_sft(SftConfig(model=str(tmp_path / "none"), verify_data=held_out), tmp_path)


def test_the_sandbox_is_tried_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(backend: str) -> Any:
        raise SandboxError(f"no {backend} here")

    monkeypatch.setattr("genprm.train.verified.open_sandbox", none)
    held_out = write(tmp_path / "rows.jsonl", [{"problem": "p", "steps": ["s"], "label": 0}])
    asked = SftConfig(model=str(tmp_path / "none"), verify_data=held_out, sandbox="bubblewrap")
    with pytest.raises(SandboxError, match="no bubblewrap here"):
        train_sft(asked, tmp_path)
    with pytest.raises(EngineError):  # ThinkPRM runs no code: the next thing is the model
        train_sft(asked.model_copy(update={"family": "thinkprm"}), tmp_path)
