"""The OpenAPI schema says what the service does: schemathesis makes requests of it, and looks at the answers."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genprm.serve.settings import ServeConfig
from tests.serve.shared import SteppedJudge, live

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed")
async def test_the_schema_holds(tmp_path: Path) -> None:
    judge = SteppedJudge()
    async with live(judge, ServeConfig(max_steps=16, max_items=16, ui=True, runs=tmp_path)) as one:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{one.url}/openapi.json"]
        command += ["--checks", CHECKS, "--max-examples", "12", "--phases", "examples,coverage,fuzzing", "--seed", "1"]
        command += ["--generation-database", "none", "--no-color", "--suppress-health-check", "all"]
        run = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out, _ = await run.communicate()
        said = out.decode()
        assert run.returncode == 0, said[-6000:]
        posted = '{path="/v1/score",status='
        assert await one.metric(f'genprm_requests_total{posted}"200"') > 0, said[-2000:]
        assert await one.metric(f'genprm_requests_total{posted}"422"') > 0
        assert one.app.service.desk._flights == {}
