r"""Process rewards in SkyRL: an environment with one number a turn, and step rewards for a generator of your own.

    genprm serve &
    python examples/rl/skyrl_rewards.py      # prints the rewards of a solution's tokens

For SkyRL's own generator, `main` starts training with the environment:

    PYTHONPATH=examples/rl python -m skyrl.train.entrypoints.main_base trainer.override_entrypoint=skyrl_rewards \
        environment.env_class=genprm_process data.train_data="['train.parquet']" ...

The rows need `prompt`, `reward_spec.ground_truth` and, where they name one, `env_class`.
SkyRL's environment needs `pip install --no-deps genprm`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from genprm.integrations.skyrl import token_rewards

ENVIRONMENT = "genprm_process"


def register() -> None:
    """Makes the environment known to SkyRL's gym, in this process."""
    from skyrl_gym.envs.registration import register

    register(id=ENVIRONMENT, entry_point="genprm.integrations.skyrl:ProcessEnv")


def main() -> None:
    """Trains: SkyRL calls this for `trainer.override_entrypoint=skyrl_rewards`."""
    import ray
    from skyrl.train.config import SkyRLTrainConfig
    from skyrl.train.entrypoints.main_base import BasePPOExp
    from skyrl.train.utils import validate_cfg
    from skyrl.train.utils.utils import initialize_ray

    @ray.remote(num_cpus=1)
    def train(config: Any) -> None:
        register()  # here, because the generator runs in this process
        BasePPOExp(config).run()

    config = SkyRLTrainConfig.from_cli_overrides(sys.argv[1:])
    validate_cfg(config)
    initialize_ray(config)
    ray.get(train.remote(config))


async def rewards_of(tokenizer: Any, rows: list[dict[str, Any]], response_ids: list[list[int]]) -> list[list[float]]:
    """`rewards` of a generator's output: one list a response, one number a token.

    Args:
        tokenizer: the policy's.
        rows: `problem` and `answer` of each response.
        response_ids: the responses.
    """
    return await asyncio.gather(
        *(
            token_rewards(tokenizer, row["problem"], ids, answer=row["answer"])
            for row, ids in zip(rows, response_ids, strict=True)
        )
    )


def show() -> None:
    """Prints the rewards of one solution with the built-in policy's tokenizer."""
    from importlib import resources

    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(resources.files("genprm") / "nano_policy"))
    row = {"problem": "Ann sold 48 clips in April and half as many in May. How many in all?", "answer": "72"}
    ids = tokenizer.encode("In May she sold 48/2 = 24 clips.\n\nIn all 48+24 = 72 clips. The answer is \\boxed{72}.")
    [rewards] = asyncio.run(rewards_of(tokenizer, [row], [ids]))
    for one, reward in zip(ids, rewards, strict=True):
        if reward:
            print(f"{reward:.3f} on token {tokenizer.decode([one])!r}")
    print(f"sum {sum(rewards):.3f} over {len(rewards)} tokens")


if __name__ == "__main__":
    show()
