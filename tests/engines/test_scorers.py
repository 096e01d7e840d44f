"""PRMs that score what is given, on each of the three engines: the same numbers as a direct float64 computation."""

import math

import pytest
import torch
import transformers

from genprm.engines import load_engine
from genprm.prms.discriminative.formats import FORMATS
from genprm.prms.discriminative.judge import DiscriminativePRM
from genprm.prms.implicit.judge import ImplicitPRM, LogprobModel
from genprm.prms.implicit.logratio import ChatSpans
from tests.prms.tiny_models import PROBLEM, SOLUTIONS


@pytest.fixture(scope="module")
def exact(tiny_model):
    """Log-probabilities of every next token, in float64."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64).eval()

    def logprobs(ids):
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return logprobs


async def test_implicit_rewards(engine, exact):
    prm = ImplicitPRM(LogprobModel(engine), None, engine.tokenizer, beta=1.0)
    spans = ChatSpans(engine.tokenizer)
    for steps in SOLUTIONS[:3]:
        written = spans(PROBLEM, steps)
        table = exact(written.ids)
        each = [float(table[j - 1, written.ids[j]]) for j in range(written.start, len(written.ids))]
        expected = [math.fsum(each[: end - written.start]) for end in written.ends]
        # Nats, summed over up to a hundred tokens of float32.
        assert list((await prm.rewards(PROBLEM, steps)).cumulative) == pytest.approx(expected, abs=5e-3)
        assert expected[-1] < -10


async def test_an_engine_against_another_with_the_same_weights(engine, tiny_model):
    other = await load_engine("transformers", str(tiny_model))
    try:
        prm = ImplicitPRM(LogprobModel(engine), LogprobModel(other), engine.tokenizer, beta=1.0)
        for steps in SOLUTIONS[:3]:
            assert (await prm.rewards(PROBLEM, steps)).cumulative == pytest.approx([0.0] * len(steps), abs=5e-3)
    finally:
        await other.close()


async def test_next_token_scores(engine, exact):
    prm = DiscriminativePRM(engine, FORMATS["rlhflow"])
    good, bad = prm.writer.choices
    for steps in SOLUTIONS[:3]:
        layout = prm.writer.layout(PROBLEM, steps)
        table = exact(layout.ids)[layout.positions]
        expected = [1 / (1 + math.exp(float(row[bad] - row[good]))) for row in table]
        assert (await prm.judge(PROBLEM, steps)).scores == pytest.approx(expected, abs=1e-4)
