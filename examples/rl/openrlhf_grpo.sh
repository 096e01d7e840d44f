#!/usr/bin/env bash
# GRPO in OpenRLHF with a gated process reward, fetched from `genprm serve` by OpenRLHF itself: its environment needs
# nothing of genprm. Rows: the columns that --data.input_key and --data.label_key name.
set -euo pipefail
: "${GENPRM_URL:?the address of genprm serve, as http://HOST:8311}"
MODEL=${MODEL:-Qwen/Qwen2.5-1.5B-Instruct}
DATA=${DATA:?a data set with the columns question and answer, such as GSM8K as a JSONL file}

# With retries and a deadline of genprm's own: --reward.remote_url /path/of/genprm/integrations/openrlhf.py
python3 -m openrlhf.cli.train_ppo_ray \
  --actor.model_name_or_path "$MODEL" \
  --actor.num_nodes 1 \
  --actor.num_gpus_per_node 8 \
  --ref.num_nodes 1 \
  --ref.num_gpus_per_node 8 \
  --train.colocate_all \
  --vllm.num_engines 8 \
  --vllm.enable_sleep \
  --algo.advantage.estimator group_norm \
  --algo.kl.init_coef 1e-3 \
  --rollout.n_samples_per_prompt 8 \
  --rollout.batch_size 128 \
  --train.batch_size 1024 \
  --rollout.max_new_tokens 1024 \
  --data.prompt_dataset "$DATA" \
  --data.input_key question \
  --data.label_key answer \
  --data.apply_chat_template \
  --reward.remote_url "$GENPRM_URL/get_reward" \
  --ckpt.output_dir runs/openrlhf \
  "$@"
