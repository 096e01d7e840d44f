"""Runs in an environment that has inspect-ai: evaluates given solutions, and prints their scores as JSON.

usage: in_inspect.py FOLDER < [task, ...]

A task is {"problem", "target", "outputs", "gated"}; {"rows": FILE, "outputs"} is that of examples/rl/inspect_gsm8k.py.
"""

import json
import sys
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from genprm.integrations.inspect_ai import process


def evaluate(asked: dict[str, Any]) -> dict[str, Any]:
    texts: list[str] = asked["outputs"]
    if "rows" in asked:
        from inspect_gsm8k import gsm8k_steps

        task = gsm8k_steps(rows=asked["rows"])
    else:
        task = Task(
            dataset=MemoryDataset([Sample(input=asked["problem"], target=asked["target"]) for _ in texts]),
            scorer=[process(gated=asked["gated"])],
        )
    model = get_model("mockllm/model", custom_outputs=[_output(text) for text in texts])
    # One sample after the other, because the outputs are given out in order.
    [log] = eval(task, model=model, max_samples=1, log_dir=sys.argv[1], display="none")
    if log.results is None:
        raise SystemExit(log.error.traceback if log.error else log.status)
    totals = {
        one.name: {
            "scored": one.scored_samples,
            "unscored": one.unscored_samples,
            **{name: metric.value for name, metric in one.metrics.items()},
        }
        for one in log.results.scores
    }
    samples: list[dict[str, Any]] = [
        {
            name: {"value": score.value, "explanation": score.explanation, "metadata": score.metadata}
            for name, score in (sample.scores or {}).items()
        }
        for sample in log.samples or []
    ]
    return {"status": log.status, "samples": samples, "totals": totals}


def _output(text: str) -> ModelOutput:
    output = ModelOutput.from_content("mockllm/model", content=text)
    # Without it, inspect counts the tokens by an encoding that it has to download.
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return output


json.dump([evaluate(one) for one in json.load(sys.stdin)], sys.stdout)
