"""NeMo Gym: a resources server that asks `genprm serve`. Written for nemo-gym 0.7.0.

Gym's agents call `/seed_session` before and `/aggregate_metrics` after `/verify`, so the service alone is not enough
for them. Gym's own base class answers these; `/verify` goes to the service.
"""
# pyright: reportUntypedBaseClass=false, reportMissingImports=false

from __future__ import annotations

from functools import cached_property
from typing import Any

from nemo_gym.base_resources_server import (
    BaseResourcesServerConfig,
    BaseVerifyRequest,
    BaseVerifyResponse,
    SimpleResourcesServer,
)
from pydantic import ConfigDict

from genprm.client import Client

__all__ = ["ProcessConfig", "ProcessResourcesServer"]


class ProcessConfig(BaseResourcesServerConfig):
    """Where the service is."""

    url: str | None = None
    """By default from the environment."""
    timeout_s: float = 100.0


class ProcessVerifyRequest(BaseVerifyRequest):
    """A rollout. A row may have `expected_answer`, `answer` or `label`."""

    model_config = ConfigDict(extra="allow")


class ProcessVerifyResponse(BaseVerifyResponse):
    """The rollout with its reward and `step_scores`."""

    model_config = ConfigDict(extra="allow")


class ProcessResourcesServer(SimpleResourcesServer):
    """Rewards a rollout by its steps. A missing reward is 0, and `mask_sample` then takes the sample out."""

    config: ProcessConfig

    @cached_property
    def _client(self) -> Client:
        return Client(self.config.url, timeout_s=self.config.timeout_s)

    async def verify(self, body: ProcessVerifyRequest) -> ProcessVerifyResponse:
        """The gated process reward."""
        sent: dict[str, Any] = body.model_dump(mode="json")
        found = await self._client.acall("/verify", sent)
        if found is None:
            found = {**sent, "reward": 0.0, "mask_sample": True, "failure_reason": self._client.stats.last_error}
        elif "timeout_s" not in sent:
            found.pop("timeout_s", None)  # the client's, which the service returns with the rest of the request
        return ProcessVerifyResponse.model_validate(found)
