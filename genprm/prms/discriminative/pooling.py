"""Step scores from vLLM's token pooling, in process or from a server."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from genprm.engines.base import Engine, PoolingEngine
from genprm.prms.base import PRMError
from genprm.prms.discriminative.formats import Layout, SolutionWriter


def pooling_scorer(engine: Engine, writer: SolutionWriter) -> Callable[[Layout], Awaitable[list[float]]]:
    """Reads a two-class head through an engine that pools.

    Raises:
        PRMError: the engine does not pool.
    """
    if not isinstance(engine, PoolingEngine):
        raise PRMError(f"the {engine.kind} engine does not serve a classification head: use transformers or vllm")

    async def pooled(layout: Layout) -> list[float]:
        return two_class_log_odds(await engine.pool(layout.ids, step_tag=writer.tag), layout)

    return pooled


def two_class_log_odds(rows: Sequence[Sequence[float]], layout: Layout) -> list[float]:
    """Log-odds of the steps from pooled outputs.

    Args:
        rows: for every token, or only every step: the two classes' logits, or their probabilities from a server with
            a softmax.
        layout: where the steps are.

    Raises:
        PRMError: the number of rows is neither that of tokens nor of steps, or there are not two classes.
    """
    if len(rows) == len(layout.ids):
        rows = [rows[position] for position in layout.positions]
    elif len(rows) != len(layout.positions):
        raise PRMError(
            f"{len(rows)} rows were pooled for {len(layout.positions)} steps in {len(layout.ids)} tokens: is the "
            "server's step tag the model's?"
        )
    if any(len(row) != 2 for row in rows):
        raise PRMError(f"the model has {len(rows[0])} classes, where two are needed: wrong and right")
    if all(min(row) >= 0 and math.isclose(sum(row), 1, abs_tol=1e-3) for row in rows):
        return [_log(right) - _log(wrong) for wrong, right in rows]
    return [right - wrong for wrong, right in rows]


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf
