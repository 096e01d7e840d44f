"""The service's metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.snippets = Counter(
            "genprm_sandbox_snippets", "Snippets that ended, by status.", ["client", "status"], registry=self._registry
        )
        self.run_s = Histogram(
            "genprm_sandbox_snippet_seconds", "Wall time of snippets.", buckets=_SECONDS, registry=self._registry
        )
        self.wait_s = Histogram(
            "genprm_sandbox_wait_seconds",
            "Overhead of a snippet: waiting for a lane, cloning, transfer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.errors = Counter(
            "genprm_sandbox_errors", "Snippets that ended because the sandbox itself broke.", registry=self._registry
        )
        self.refused = Counter(
            "genprm_sandbox_refused", "Refused requests, by reason.", ["reason"], registry=self._registry
        )
        self.sessions = Gauge("genprm_sandbox_sessions", "Open sessions.", ["client"], registry=self._registry)
        self.connections = Gauge(
            "genprm_sandbox_connections", "Open lanes of clients.", ["client"], registry=self._registry
        )
        self.waiting = Gauge("genprm_sandbox_in_flight", "Snippets that run or wait.", registry=self._registry)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read on each request."""
        Gauge(name, text, registry=self._registry).set_function(read)

    def render(self) -> bytes:
        """Renders the page `/metrics`."""
        return generate_latest(self._registry)
