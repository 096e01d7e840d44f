"""What a guest's container is given, whatever engine runs it."""

from __future__ import annotations

import os

from .guest_config import ENVIRONMENT, idle_memory_mb
from .limits import Limits

READABLE = ("/usr", "/lib", "/lib64", "/opt/sandbox", "/etc/ld.so.cache")
TMPFS = "rw,noexec,nosuid,nodev,size=16m,nr_inodes=4k,mode=711"
ENVIRONMENT_INSIDE = (*ENVIRONMENT, ("PYTHONPATH", "/opt/sandbox"))
_BASE_MB = 512
"""Supervisor, zygote and scratch."""
PROCESSES = 1024
"""One a session at rest (at most 512), 128 threads that rest, and room for what runs and for the guest itself."""
_CORES = 2
"""A lane runs one snippet; a clone may be made ready beside it."""


def memory_mb(limits: Limits) -> int:
    """Of everything in a guest together."""
    return _BASE_MB + idle_memory_mb(limits) + 2 * limits.memory_mb


def cores() -> int:
    """How many processors a guest may use."""
    return min(_CORES, os.cpu_count() or 1)
