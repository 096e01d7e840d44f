#!/usr/bin/env bash
# GRPO in slime with a gated process reward. Run it in a checkout of slime, with `ray start --head` done and the model's
# arguments sourced, as slime's own scripts do. slime's environment needs `pip install --no-deps genprm`.
# Rows: the columns that --input-key and --label-key name.
set -euo pipefail
: "${GENPRM_URL:?the address of genprm serve, as http://HOST:8311}"
MODEL_DIR=${MODEL_DIR:-/models/Qwen3-4B}
DATA=${DATA:-/data/math.jsonl}
declare -a MODEL_ARGS
# shellcheck source=/dev/null
source "${MODEL_ARGS_FILE:-scripts/models/qwen3-4B.sh}"

ray job submit --address="http://127.0.0.1:8265" \
  --runtime-env-json="{\"env_vars\": {\"GENPRM_URL\": \"$GENPRM_URL\", \"GENPRM_API_KEY\": \"${GENPRM_API_KEY:-}\"}}" \
  -- python3 train.py \
  "${MODEL_ARGS[@]}" \
  --actor-num-nodes 1 \
  --actor-num-gpus-per-node 8 \
  --colocate \
  --hf-checkpoint "$MODEL_DIR" \
  --ref-load "${MODEL_DIR}_torch_dist" \
  --prompt-data "$DATA" \
  --input-key prompt \
  --label-key label \
  --apply-chat-template \
  --rollout-shuffle \
  --custom-rm-path genprm.integrations.slime.custom_rm \
  --num-rollout 500 \
  --rollout-batch-size 32 \
  --n-samples-per-prompt 8 \
  --rollout-max-response-len 4096 \
  --rollout-temperature 1.0 \
  --global-batch-size 256 \
  --advantage-estimator grpo \
  --optimizer adam \
  --lr 1e-6 \
  "$@"
