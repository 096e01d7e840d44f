"""Checks that a checkpoint has all weights of its model: scores must not come from random weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from genprm.engines.errors import EngineError

logger = logging.getLogger(__name__)


def check_report(model: str, architecture: str, report: Mapping[str, Any]) -> None:
    """Refuses an incompletely loaded model: transformers fills missing weights with random numbers.

    Args:
        model: folder or model id.
        architecture: the name of the model's class.
        report: what `from_pretrained` returns with `output_loading_info=True` and `ignore_mismatched_sizes=True`.

    Raises:
        EngineError: weights are missing or have another shape. Unused weights are only a warning.
    """
    if missing := sorted(report["missing_keys"]):
        raise EngineError(
            f"{model!r} has no weights for {_listed(missing)}, which {architecture} needs: it is another kind of model "
            "than it was loaded as, or its checkpoint is incomplete"
        )
    if other := sorted(report["mismatched_keys"]):
        shapes = [f"{name} ({tuple(saved)} where {tuple(wanted)} is needed)" for name, saved, wanted in other]
        raise EngineError(f"weights of {model!r} do not have the shape in its configuration: {_listed(shapes)}")
    if unused := sorted(report["unexpected_keys"]):
        logger.warning("%s does not use %s of %r", architecture, _listed(unused), model)


def check_checkpoint(model: str, revision: str | None = None, model_class: Any = None) -> None:
    """Refuses an incomplete checkpoint for engines that do not report missing weights, such as vLLM.

    The model is built without memory, and only names and shapes of its weights are compared: 0.03 s per gigabyte. What
    transformers cannot read (another format, quantised weights, an architecture of vLLM's own) is left to the engine.

    Args:
        model: folder or model id.
        revision: the model's revision on the Hub.
        model_class: the class of the model; by default the one that its configuration names.

    Raises:
        EngineError: weights are missing.
    """
    import transformers

    try:
        config: Any = transformers.AutoConfig.from_pretrained(model, revision=revision)
        if getattr(config, "quantization_config", None) is not None:
            return
        if model_class is None:
            model_class = getattr(transformers, (config.architectures or [""])[0], None)
        if model_class is None:
            return
        _, report = model_class.from_pretrained(
            model,
            revision=revision,
            device_map="meta",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # any error of transformers: this is only a check
        logger.debug("the weights of %r were not checked: %s", model, error)
        return
    check_report(model, model_class.__name__, report)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
