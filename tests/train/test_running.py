"""What is checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genprm.train.config import DiscriminativeConfig, ImplicitConfig, SftConfig
from genprm.train.discriminative import train_discriminative
from genprm.train.implicit_training import train_implicit
from genprm.train.rows import TrainError
from genprm.train.running import check_devices
from genprm.train.sft import train_sft


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
