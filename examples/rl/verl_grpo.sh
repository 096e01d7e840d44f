#!/usr/bin/env bash
# GRPO in verl with a gated process reward. `genprm serve` runs elsewhere; verl's environment needs
# `pip install --no-deps genprm`. Rows: `prompt` (messages), `reward_model.ground_truth`, `data_source`.
set -euo pipefail
: "${GENPRM_URL:?the address of genprm serve, as http://HOST:8311}"
MODEL=${MODEL:-Qwen/Qwen2.5-1.5B-Instruct}
DATA=${DATA:-$HOME/data/gsm8k}

# The manager takes the problem from the prompt. With the problem in `extra_info`, the function is enough:
#   reward.custom_reward_function.path=pkg://genprm.integrations.verl
#   reward.custom_reward_function.name=compute_score
python3 -m verl.trainer.main_ppo \
  algorithm.adv_estimator=grpo \
  data.train_files="$DATA/train.parquet" \
  data.val_files="$DATA/test.parquet" \
  data.train_batch_size=256 \
  data.max_prompt_length=512 \
  data.max_response_length=1024 \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.ppo_mini_batch_size=64 \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n=8 \
  reward.reward_manager.source=importlib \
  reward.reward_manager.module.path=pkg://genprm.integrations.verl_manager \
  reward.reward_manager.name=ProcessRewardManager \
  +reward.custom_reward_function.reward_kwargs.url="$GENPRM_URL" \
  +reward.custom_reward_function.reward_kwargs.timeout_s=240 \
  trainer.n_gpus_per_node=8 \
  trainer.nnodes=1 \
  trainer.total_epochs=1 \
  "$@"
