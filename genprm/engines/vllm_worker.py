"""An extension of vLLM's workers: they end with the process that started them, however it ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from pathlib import Path


class EndsWithDriver:
    """Mixin for vLLM's worker class. A killed process cannot end its engine, which would keep the GPU."""

    def end_with(self, driver: int) -> None:
        """Makes this worker, and the engine's process above it, end when the driver ends.

        Args:
            driver: id of the process that loaded the engine. No effect if it is neither parent nor grandparent, as with
            workers on other nodes.
        """
        parent = os.getppid()
        above = [] if parent == driver else [parent]
        if above and _parent_of(parent) != driver:
            return
        watch = os.pidfd_open(driver)
        threading.Thread(target=_end_with, args=(watch, above), name="genprm-end-with-driver", daemon=True).start()


def _end_with(watch: int, above: list[int]) -> None:
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    poll.poll()
    for process in above:
        with contextlib.suppress(ProcessLookupError):  # another worker was first
            os.kill(process, signal.SIGKILL)
    os._exit(1)


def _parent_of(process: int) -> int:
    stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    # State and parent follow the name in parentheses, which may contain anything.
    return int(stat.rpartition(")")[2].split()[1])
