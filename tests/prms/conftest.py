from collections.abc import AsyncIterator

import pytest_asyncio

from genprm.sandbox import Limits, Sandbox, open_sandbox


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def box() -> AsyncIterator[Sandbox]:
    """A real sandbox with short limits; the daemonless backend, so that these tests need no engine."""
    async with open_sandbox("bubblewrap", limits=Limits(wall_s=0.5)) as opened:
        yield opened
