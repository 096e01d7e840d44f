"""Runs untrusted Python, for example the checking code of a generative process reward model.

    async with open_sandbox("auto", limits=Limits(wall_s=5)) as box:
        async with box.session() as session:
            result = await session.run("print(sum(range(10)))")

docs/threat-model.md says what is contained and what is not, with a test for each sentence.
"""

from .box import Sandbox, Session
from .limits import Limits
from .opening import open_sandbox
from .results import Result, SandboxError, Status

__all__ = ["Limits", "Result", "Sandbox", "SandboxError", "Session", "Status", "open_sandbox"]
