"""The metrics of `/metrics`, in Prometheus's text format. Compute rates there: `rate(genprm_tokens_total[1m])`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from genprm.types import Judgement

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on = self.registry
        self.requests = Counter("genprm_requests", "Requests, by path and status.", ["path", "status"], registry=on)
        self.request_s = Histogram(
            "genprm_request_seconds", "Time of a request.", ["path"], buckets=_SECONDS, registry=on
        )
        self.wait_s = Histogram("genprm_wait_seconds", "Time a solution waits.", buckets=_SECONDS, registry=on)
        self.judge_s = Histogram("genprm_judge_seconds", "Time a solution is judged.", buckets=_SECONDS, registry=on)
        self.connections = Gauge("genprm_connections", "Open connections.", registry=on)
        self.queue = Gauge("genprm_queue", "Waiting solutions.", registry=on)
        self.in_flight = Gauge("genprm_solutions_in_flight", "Solutions being judged.", registry=on)
        self.chains = Gauge("genprm_chains_in_flight", "Chains being written.", registry=on)
        self.solutions = Counter(
            "genprm_solutions",
            "Solutions, by outcome: judged, failed, abandoned.",
            ["outcome"],
            registry=on,
        )
        self.shared = Counter(
            "genprm_shared", "Solutions that shared a judgement with a concurrent request.", registry=on
        )
        self.partial = Counter("genprm_partial", "Responses with steps left unjudged at the deadline.", registry=on)
        self.refused = Counter("genprm_refused", "Requests refused because the queue was full.", registry=on)
        self.steps = Counter("genprm_steps", "Judged steps, by verdict.", ["verdict"], registry=on)
        self.tokens = Counter(
            "genprm_tokens",
            "Tokens, by kind: prompt, generated; cached is the part of prompt from a cache.",
            ["kind"],
            registry=on,
        )
        self.code = Counter("genprm_code_runs", "Snippets, by status.", ["status"], registry=on)

    def judged(self, judgement: Judgement) -> None:
        """Counts a judgement's steps, tokens and snippets."""
        self.solutions.labels("judged").inc()
        tokens = judgement.tokens
        for kind, count in (("prompt", tokens.prompt), ("generated", tokens.generated), ("cached", tokens.cached)):
            self.tokens.labels(kind).inc(count)
        for step in judgement.steps:
            self.steps.labels("none" if step.verdict is None else str(step.verdict)).inc()
            for chain in step.chains:
                for run in chain.code:
                    self.code.labels(str(run.status)).inc()
