"""GRPO in AReaL with a gated process reward. Written for areal 1.0.4.

    genprm serve &
    python examples/rl/areal_grpo.py --config my_grpo.yaml

The configuration is one of AReaL's for GRPO. AReaL's environment needs `pip install --no-deps genprm`. Rows need
`messages` and `answer`, as AReaL's GSM8K has them.
"""

from __future__ import annotations

import sys
from typing import Any

REWARD = "genprm.integrations.areal.reward_fn"


def workflow(config: Any) -> dict[str, Any]:
    """The arguments of `RLVRWorkflow`, with the process reward."""
    return {"reward_fn": REWARD, "gconfig": config.gconfig, "tokenizer": config.tokenizer_path}


def main() -> None:
    """Trains."""
    from areal import PPOTrainer
    from areal.api.cli_args import GRPOConfig, load_expr_config
    from areal.dataset import get_custom_dataset
    from areal.utils.hf_utils import load_hf_tokenizer

    config, _ = load_expr_config(sys.argv[1:], GRPOConfig)
    tokenizer = load_hf_tokenizer(config.tokenizer_path)
    rows = get_custom_dataset(split="train", dataset_config=config.train_dataset, tokenizer=tokenizer)
    with PPOTrainer(config, train_dataset=rows) as trainer:
        trainer.train(workflow="areal.workflow.rlvr.RLVRWorkflow", workflow_kwargs=workflow(config))


if __name__ == "__main__":
    main()
