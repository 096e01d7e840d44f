"""The start configuration of guests, for every backend."""

from __future__ import annotations

import json

from .limits import Limits

ENVIRONMENT = (
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("LC_ALL", "C.UTF-8"),
    ("TZ", "UTC"),
    ("PYTHONHASHSEED", "0"),
    ("PYTHONUTF8", "1"),
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("PYTHONNOUSERSITE", "1"),
    # Threads started by a library at import do not survive a clone, and count as a session's processes.
    ("OPENBLAS_NUM_THREADS", "1"),
    ("OMP_NUM_THREADS", "1"),
    ("MKL_NUM_THREADS", "1"),
    ("NUMEXPR_NUM_THREADS", "1"),
)


def idle_memory_mb(limits: Limits) -> int:
    """Memory that a lane's idle sessions may hold together."""
    return max(1024, limits.memory_mb)


def guest_config(limits: Limits, *, proc: str, readable: tuple[str, ...]) -> str:
    """The argument of `python -m guest`."""
    return json.dumps(
        {
            "wall_s": limits.wall_s,
            "cpu_s": limits.cpu_s,
            "memory_mb": limits.memory_mb,
            "output_kb": limits.output_kb,
            "lane_mb": idle_memory_mb(limits),
            "proc": proc,
            "readable": readable,
        }
    )
