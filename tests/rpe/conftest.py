from collections.abc import AsyncIterator

import pytest_asyncio

from genprm.sandbox import Limits, Sandbox, open_sandbox


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def box() -> AsyncIterator[Sandbox]:
    """A real sandbox; the daemonless backend, so that these tests need no engine."""
    async with open_sandbox("bubblewrap", limits=Limits(wall_s=2)) as opened:
        yield opened
