"""Runs where verl can be imported: loads a reward manager as verl's workers do, and prints what it returns as JSON.

usage: in_verl.py < [{"overrides", "rows": [{"problem" | "messages", "responses", "answer"}, ...]}, ...]

The overrides are those of a command line. The tokenizer is the built-in policy's. `responses` are those of one
trajectory: verl rewards the last.
"""

import asyncio
import json
import sys
from importlib import resources
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager

POLICY = resources.files("genprm") / "nano_policy"


def batch(tokenizer: Any, given: dict[str, Any]) -> DataProto:
    """The batch of `AgentLoopWorker._compute_score` in verl 0.9.1."""
    prompts: list[Any] = []
    responses: list[Any] = []
    for index, text in enumerate(given["responses"]):
        # Turns have prompts of different lengths.
        prompts.append(torch.tensor(tokenizer.encode("Question " * (3 - index)), dtype=torch.int64))
        responses.append(torch.tensor([*tokenizer.encode(text), tokenizer.eos_token_id], dtype=torch.int64))
    whole = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    tensors = {
        "prompts": pad_sequence(prompts, batch_first=True),
        "responses": pad_sequence(responses, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in whole], batch_first=True),
    }
    count = len(whole)
    row: dict[str, Any] = {
        "data_source": "math",
        "reward_model": {"style": "rule", "ground_truth": given["answer"]},
        "extra_info": {"index": 0, **({"question": given["problem"]} if "problem" in given else {})},
        "raw_prompt": given.get("messages", [{"role": "user", "content": "not this"}]),
    }
    others = {
        **{name: np.array([value] * count) for name, value in row.items()},
        "prompt_len": np.array([len(one) for one in prompts]),
        "response_len": np.array([len(one) for one in responses]),
    }
    return DataProto(batch=TensorDict(tensors, batch_size=count), non_tensor_batch=others)


def padded(data: DataProto) -> DataProto:
    """The batch of the colocated path: a response padded to its longest, and no lengths."""
    assert data.batch is not None
    tensors = {
        "responses": torch.nn.functional.pad(data.batch["responses"], (0, 5)),
        "attention_mask": torch.nn.functional.pad(data.batch["attention_mask"], (0, 5)),
    }
    names = ("data_source", "reward_model", "extra_info", "raw_prompt")
    others = {name: data.non_tensor_batch[name] for name in names}
    return DataProto(batch=TensorDict(tensors, batch_size=len(data)), non_tensor_batch=others)


async def rewarded(asked: dict[str, Any]) -> list[Any]:
    with resources.as_file(resources.files("verl") / "trainer" / "config" / "_generated_ppo_trainer.yaml") as file:
        config: Any = OmegaConf.load(file)
    plain = [one.removeprefix("+") for one in asked["overrides"]]
    config = OmegaConf.merge(config, OmegaConf.from_dotlist(plain))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(POLICY))
    manager = load_reward_manager(config, tokenizer, reward_router_address=None, reward_model_tokenizer=None)
    found: list[Any] = [type(manager).__name__]
    for given in asked["rows"]:
        data = batch(tokenizer, given)
        found.append(await manager.run_single(padded(data) if given.get("padded") else data))
    return found


async def main() -> list[Any]:
    return [await rewarded(one) for one in json.load(sys.stdin)]


print(json.dumps(asyncio.run(main())))
