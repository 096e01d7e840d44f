"""GRPO with a gated process reward, in TRL: the built-in policy, judged by a running `genprm serve`.

    genprm serve &
    python examples/rl/trl_grpo.py --steps 20

Any policy and any data set with the columns `prompt` and `answer` take their places; nothing else changes. TRL and
genprm need not share an environment: the reward needs genprm's client alone (`pip install --no-deps genprm`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import genprm
from genprm.data.word_problems import make_problems
from genprm.integrations.trl import process_reward

POLICY = Path(genprm.__file__).parent / "nano_policy"


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/grpo"))
    options = parser.parse_args()

    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    problems = make_problems(options.problems, seed=31_000, steps=(2, 3))
    rows = [{"prompt": [{"role": "user", "content": one.text}], "answer": str(one.answer)} for one in problems]
    trainer = GRPOTrainer(
        model=str(POLICY),
        reward_funcs=process_reward(),
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=str(options.out),
            max_steps=options.steps,
            per_device_train_batch_size=16,
            num_generations=8,
            max_completion_length=192,
            learning_rate=1e-5,
            temperature=1.0,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
        ),
    )
    trainer.train()
    trainer.save_model(str(options.out))
    rewards = [one["reward"] for one in trainer.state.log_history if "reward" in one]
    print(f"{len(rewards)} steps, mean reward {rewards[0]:.3f} in the first and {rewards[-1]:.3f} in the last")


if __name__ == "__main__":
    main()
