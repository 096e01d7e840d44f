"""Every file in recipes/train is valid for its command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from genprm.train.config import DiscriminativeConfig, ImplicitConfig, SftConfig

FILES = sorted((Path(__file__).parent.parent.parent / "recipes" / "train").glob("*.yaml"))


@pytest.mark.parametrize("file", [f for f in FILES if "distributed_type" not in f.read_text()], ids=lambda f: f.stem)
def test_a_recipe_is_a_configuration(file: Path) -> None:
    kinds = {"discriminative": DiscriminativeConfig, "implicit": ImplicitConfig}
    asked = kinds.get(file.stem.partition("-")[0], SftConfig).of(yaml.safe_load(file.read_text()))
    # In a large data set some row is longer than this: it must not end the run.
    assert asked.max_length is None or asked.bad_rows == "skip"


def test_genprm_is_trained_as_the_paper_says() -> None:
    asked = SftConfig.of(yaml.safe_load((FILES[0].parent / "genprm-7b.yaml").read_text()))
    assert (asked.batch_size, asked.learning_rate) == (64, 2e-6)


def test_launchers_are_files_of_accelerate() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = [load_config_from_file(str(f)) for f in FILES if "distributed_type" in f.read_text()]
    assert sorted(str(one.distributed_type).rpartition(".")[2] for one in found) == ["DEEPSPEED", "FSDP"]
