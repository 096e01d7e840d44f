"""verl: a reward manager that takes the problem from the prompt. Written for verl 0.9.1.

reward.reward_manager.source=importlib
reward.reward_manager.module.path=pkg://genprm.integrations.verl_manager
reward.reward_manager.name=ProcessRewardManager
"""
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

from typing import Any

from verl.experimental.reward_loop.reward_manager.base import (  # pyright: ignore[reportMissingImports]
    RewardManagerBase,
)

from genprm.chat_text import problem_of
from genprm.integrations.verl import compute_score


class ProcessRewardManager(RewardManagerBase):
    """Rewards a response by its steps; the problem comes from `extra_info` or `raw_prompt`.

    Args:
        config: verl's. `reward.custom_reward_function.reward_kwargs` may have `url` and `timeout_s`.
        tokenizer: the policy's.
        compute_score: not used.
        **_: verl also gives the address of its own reward model.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **_: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        given = (config.reward.get("custom_reward_function") or {}).get("reward_kwargs") or {}
        self._options: dict[str, Any] = {name: given[name] for name in ("url", "timeout_s") if name in given}

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Returns the reward of one response, and the values that verl logs."""
        one = data[-1:][0]
        ids = one.batch["responses"]
        # With several turns verl pads prompt and response together, so that the mask's end is not the response's.
        given = one.non_tensor_batch.get("response_len")
        length = int(one.batch["attention_mask"][-ids.shape[-1] :].sum() if given is None else given)
        text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
        info = dict(one.non_tensor_batch.get("extra_info") or {})
        if not any(info.get(name) for name in ("problem", "question", "prompt")):
            info["problem"] = problem_of(list(one.non_tensor_batch["raw_prompt"]))
        answer = (one.non_tensor_batch.get("reward_model") or {}).get("ground_truth")
        source = one.non_tensor_batch.get("data_source", "")
        found = await compute_score(source, text, answer, info, **self._options)
        return {"reward_score": found["score"], "reward_extra_info": found}
