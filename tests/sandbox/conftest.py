from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from genprm.sandbox import Limits, Sandbox, SandboxError, open_sandbox

BACKENDS = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
]
LIMITS = Limits(wall_s=2.0, cpu_s=5.0, memory_mb=512, output_kb=16)


def missing(reason: str) -> None:
    """Skips, or fails if everything must run."""
    if os.environ.get("GENPRM_CI") == "1":
        pytest.fail(f"nothing may be skipped in CI: {reason}")
    pytest.skip(reason)


async def opened(backend: str, limits: Limits = LIMITS, lanes: int = 1) -> Sandbox:
    """A started sandbox, which the caller closes."""
    box = open_sandbox(backend, limits=limits, lanes=lanes)
    try:
        return await box.start()
    except SandboxError as error:
        missing(f"{backend}: {error}")
        raise


@pytest.fixture(scope="session", params=BACKENDS)
async def box(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """An open sandbox with one lane, shared by all tests of a backend that do not break it."""
    opened_box = await opened(request.param)
    yield opened_box
    await opened_box.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of a backend, for tests that open their own sandbox."""
    return request.param
