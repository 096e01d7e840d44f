"""Runs where a trainer can be imported: gives it the adapter as its configuration would, and prints what it does.

usage: in_trainers.py openrlhf|areal|skyrl|nemo_gym < JSON
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import genprm.integrations


async def openrlhf(asked: dict[str, Any]) -> Any:
    """The rewards by the file and by the service's own address, each fetched by OpenRLHF's code."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    given = (asked["queries"], asked["prompts"], asked["labels"])
    file = SingleTurnAgentExecutor(str(Path(genprm.integrations.__file__).parent / "openrlhf.py"))
    address = SingleTurnAgentExecutor([f"{os.environ['GENPRM_URL']}/get_reward"])
    return {
        "file": await file._fetch_rewards_via_func(*given),
        "address": await address._fetch_rewards_via_http(*given),
    }


async def areal(asked: dict[str, Any]) -> Any:
    """The rewards of AReaL's pool of processes, for a reward function named by a text as in `RLVRWorkflow`."""
    from areal.api import AsyncRewardWrapper
    from areal.utils.dynamic_import import import_from_string

    reward = AsyncRewardWrapper(import_from_string("genprm.integrations.areal.reward_fn"))
    return [await reward(asked["prompt"], text, [1], [2], **asked["row"]) for text in asked["texts"]]


async def skyrl(asked: dict[str, Any]) -> Any:
    """Steps of an environment that is registered as in examples/rl/skyrl_rewards.py, made by SkyRL's gym."""
    import skyrl_gym
    import skyrl_rewards

    skyrl_rewards.register()
    found: list[Any] = []
    for text in asked["texts"]:
        env: Any = skyrl_gym.make(skyrl_rewards.ENVIRONMENT, env_config={}, extras=asked["extras"])
        prompt, _ = env.init(asked["extras"]["prompt"])
        step = await asyncio.to_thread(env.step, text)
        env.close()
        found.append({"prompt": prompt, **step})
    return found


async def nemo_gym(asked: dict[str, Any]) -> Any:
    """The calls of Gym's simple agent to the resources server of examples/rl/nemo_gym."""
    import httpx
    import yaml
    from nemo_gym.server_utils import ServerClient

    from genprm.integrations.nemo_gym import ProcessConfig, ProcessResourcesServer

    folder = Path(asked["folder"])
    written = yaml.safe_load((folder / "configs" / "genprm_process.yaml").read_text())
    given = {**written["genprm_process"]["resources_servers"]["genprm_process"], **asked["config"]}
    config = ProcessConfig(**given, name="genprm_process", host="127.0.0.1", port=1)
    # The other servers are not called.
    server = ProcessResourcesServer(config=config, server_client=ServerClient.model_construct())
    transport = httpx.ASGITransport(app=server.setup_webserver())
    async with httpx.AsyncClient(transport=transport, base_url="http://gym", timeout=60) as agent:
        seeded = await agent.post("/seed_session", json=asked["rollouts"][0])
        verified = [(await agent.post("/verify", json=one)).raise_for_status().json() for one in asked["rollouts"]]
        rows = [{**one, "_ng_task_index": 0, "_ng_rollout_index": n} for n, one in enumerate(verified)]
        totals = await agent.post("/aggregate_metrics", json={"verify_responses": rows})
    return {"seeded": seeded.status_code, "verified": verified, "totals": totals.status_code}


if __name__ == "__main__":  # AReaL's processes import this file
    print(json.dumps(asyncio.run(globals()[sys.argv[1]](json.load(sys.stdin)))))
