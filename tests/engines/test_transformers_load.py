"""The transformers engine under a mixed load with cancellations: nothing is forgotten, mixed up or left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.engine_load import mixed_load
from genprm.engines import load_engine
from genprm.engines.transformers.engine import TransformersEngine


async def test_a_mixed_load_is_answered_rightly_and_leaves_nothing_behind(tiny_model: Path) -> None:
    engine = await load_engine("transformers", str(tiny_model), max_num_seqs=16, prefill_tokens=1024)
    assert isinstance(engine, TransformersEngine)
    load = await mixed_load(engine, 300, in_flight=100, patience_s=120)
    # The last answers are given a moment before their slots are free.
    for _ in range(100):
        if engine.pending == 0:
            break
        await asyncio.sleep(0.05)
    assert engine.pending == 0
    assert load.answered + load.cancelled + load.refused == load.requests == 300
    assert load.cancelled >= 10
    assert load.refused >= 10
    assert load.threads <= 2  # those of asyncio's default executor
    await engine.close()
    assert engine.model is None
