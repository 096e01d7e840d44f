"""GSM8K in Inspect, scored by the final answer and by the worst step.

    genprm serve &
    inspect eval examples/rl/inspect_gsm8k.py --model openai/gpt-4o-mini --limit 50
    inspect eval examples/rl/inspect_gsm8k.py --model openai/gpt-4o-mini -T rows=my_problems.jsonl

Inspect's environment needs `pip install inspect-ai latex2sympy2-extended==1.11.0` and `pip install --no-deps genprm`.
"""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Dataset, Sample, hf_dataset, json_dataset
from inspect_ai.scorer import math
from inspect_ai.solver import generate, system_message

from genprm.integrations.inspect_ai import process

# The judge reads steps: paragraphs, each of which does one thing.
INSTRUCTION = "Solve the problem step by step, with an empty line between two steps. End with \\boxed{the answer}."


@task
def gsm8k_steps(rows: str | None = None, url: str | None = None, gated: bool = False) -> Task:
    """The task.

    Args:
        rows: a JSONL file with GSM8K's columns, `question` and `answer`; by default GSM8K's test split from the Hub,
            for which `datasets` must be installed.
        url: the service; by default from the environment.
        gated: give the process score 0 where the answer is wrong.
    """
    return Task(
        dataset=_rows(rows),
        solver=[system_message(INSTRUCTION), generate()],
        scorer=[math(), process(url=url, gated=gated)],
    )


def _rows(file: str | None) -> Dataset:
    if file is not None:
        return json_dataset(file, _sample)
    return hf_dataset("openai/gsm8k", split="test", name="main", sample_fields=_sample)


def _sample(row: dict[str, str]) -> Sample:
    # The reference answer stands after the worked solution.
    return Sample(input=row["question"], target=row["answer"].rpartition("####")[2].strip().replace(",", ""))
