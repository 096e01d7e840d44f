"""Schemathesis on the service's own schema: no errors of the service's, and every response as the schema says."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genprm.serve.settings import ServeConfig
from tests.serve.shared import SteppedJudge, live

pytestmark = pytest.mark.slow
SCHEMATHESIS = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis"
# Not `positive_data_acceptance`: no schema says that steps may not be blank, or that a body has "problem" or "items".
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)


async def test_every_response_follows_the_schema(tmp_path: Path) -> None:
    async with live(SteppedJudge(), ServeConfig(max_body_mb=1)) as one:
        run = await asyncio.create_subprocess_exec(
            *(SCHEMATHESIS, "run", f"{one.url}/openapi.json", "--checks", CHECKS, "--max-examples", "25"),
            *("--seed", "7", "--generation-database", "none", "--no-color"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _ = await run.communicate()
        assert run.returncode == 0, out.decode()[-6000:]
        asked = {
            (path, status): await one.metric(f'genprm_requests_total{{path="{path}",status="{status}"}}')
            for path in ("/v1/judge", "/v1/score", "/v1/critique", "/get_reward", "/rm", "/verify", "/pooling")
            for status in (200, 422)
        }
        for path, _ in asked:
            assert asked[path, 200] + asked[path, 422] > 0, path
        assert sum(count for (_, status), count in asked.items() if status == 200) > 0
        assert await one.metric("genprm_solutions_in_flight") == 0
