"""Imports transformers without scikit-learn and pandas, which it loads for assisted generation alone."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

_MODULE = "transformers.generation.candidate_generator"


def import_lean() -> None:
    """Imports the module of transformers that loads scikit-learn, with that left for later.

    It takes two thirds as long as PyTorch. Whoever uses assisted generation in this process finds it as usual: it is
    imported when its one function is called.
    """
    if _MODULE in sys.modules or importlib.util.find_spec("sklearn") is None:
        return
    import transformers.utils as utils

    asked: Callable[[], bool] | None = getattr(utils, "is_sklearn_available", None)
    if asked is None:
        return  # another version of transformers: it is imported as it wants to be
    setattr(utils, "is_sklearn_available", lambda: False)  # noqa: B010
    try:
        module: Any = importlib.import_module(_MODULE)
    finally:
        setattr(utils, "is_sklearn_available", asked)  # noqa: B010
    module.is_sklearn_available = asked
    module.roc_curve = _roc_curve


def _roc_curve(*args: Any, **named: Any) -> Any:
    from sklearn.metrics import roc_curve  # pyright: ignore[reportUnknownVariableType]

    return roc_curve(*args, **named)
