"""The built-in policy, found by its name."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from genprm import prompts
from genprm.data.steps import join_steps, split_steps
from genprm.data.word_problems import first_error, make_problems
from genprm.engines import BUILT_IN, Engine, Finish, Sampling, load_engine

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine() -> AsyncIterator[Engine]:
    opened = await load_engine("transformers", "nano-policy", max_num_seqs=64)
    yield opened
    await opened.close()


def test_it_is_small() -> None:
    files = list(BUILT_IN["nano-policy"].iterdir())
    assert sum(file.stat().st_size for file in files) < 8e6
    assert json.loads((BUILT_IN["nano-policy"] / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("layout", ["system", "behind"])
async def test_it_solves_some_problems_and_not_others(engine: Engine, layout: str) -> None:
    import asyncio

    async def solved(number: int) -> bool:
        problem = problems[number]
        ask = prompts.render("policy/system")
        user = {"role": "user", "content": problem.text if layout == "system" else f"{problem.text}\n\n{ask}"}
        messages = [{"role": "system", "content": ask}, user] if layout == "system" else [user]
        ids = engine.tokenizer.encode_chat(messages, True, "Step 1:")
        done = await engine.generate(ids, Sampling(300, temperature=1.0, seed=number))
        assert done.finish is Finish.EOS
        return first_error(problem, split_steps(f"Step 1:{done.text}")) == -1

    problems = make_problems(60, 3)
    rate = sum(await asyncio.gather(*(solved(number) for number in range(60)))) / 60
    assert 0.2 < rate < 0.7


async def test_it_goes_on_from_the_first_steps(engine: Engine) -> None:
    problem = next(p for p in make_problems(20, 3) if len(p.solution) == 3)
    messages = [
        {"role": "system", "content": prompts.render("policy/system")},
        {"role": "user", "content": problem.text},
    ]
    ids = engine.tokenizer.encode_chat(messages, True, join_steps([*problem.solution[:2], "Step 3:"]))
    done = await engine.generate(ids, Sampling(100))
    assert "\\boxed{" in done.text
    assert len(split_steps(f"Step 3:{done.text}")) == 1
