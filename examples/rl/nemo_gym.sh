#!/usr/bin/env bash
# What NeMo Gym's `/verify` does, with one rollout: a first check that the service answers.
#
# For training, Gym starts the resources server of examples/rl/nemo_gym itself:
#   cd examples/rl/nemo_gym
#   gym env start "+config_paths=[resources_servers/genprm_process/configs/genprm_process.yaml,MODEL.yaml]"
set -euo pipefail
URL=${GENPRM_URL:-http://127.0.0.1:8311}
key=()
if [ -n "${GENPRM_API_KEY:-}" ]; then key=(-H "Authorization: Bearer $GENPRM_API_KEY"); fi

curl -sS --fail-with-body "${key[@]}" -H 'Content-Type: application/json' "$URL/verify" -d @- <<'JSON'
{
  "responses_create_params": {
    "input": [{"role": "user", "content": "Ann sold 48 clips in April and half as many in May. How many in all?"}]
  },
  "expected_answer": "72",
  "response": {
    "id": "resp_1", "object": "response", "created_at": 0, "model": "policy",
    "output": [{
      "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
      "content": [{
        "type": "output_text", "annotations": [],
        "text": "In May she sold 48/2 = 24 clips.\n\nIn all 48+24 = 72 clips. The answer is \\boxed{72}."
      }]
    }],
    "parallel_tool_calls": true, "tool_choice": "auto", "tools": []
  }
}
JSON
