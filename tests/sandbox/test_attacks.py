"""The attack suite on the backends, with a canary after each attack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genprm.sandbox.attacks import ATTACKS
from genprm.sandbox.results import Status
from tests.conftest import ROOT, missing

from .conftest import TIMING, contained, no_bubblewrap, ordinary_user, serving

ALL = os.environ.get("GENPRM_TEST_ALL_ATTACKS") == "1"
SLOW = (Status.TIMEOUT, Status.OUTPUT_LIMIT)


def test_the_suite_is_large_and_its_names_are_unique() -> None:
    assert len(ATTACKS) >= 220
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_every_attack_is_contained(backend: str) -> None:
    await contained(backend, ATTACKS)


@pytest.mark.bubblewrap
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_attacks_are_contained_through_a_service() -> None:
    """Those that do not sit out a limit, which does not depend on the way there; GENPRM_TEST_ALL_ATTACKS=1 runs all."""
    if reason := no_bubblewrap():
        missing(reason)
    chosen = tuple(one for one in ATTACKS if ALL or not one.allowed.intersection(SLOW))
    assert len(chosen) >= 150
    async with serving() as address:
        await contained(address, chosen)


AS_USER = """
import asyncio, json
from genprm.sandbox import open_sandbox
from genprm.sandbox.attacks import ATTACK_LIMITS, ATTACKS, run_attacks
async def main():
    async with open_sandbox("bubblewrap", limits=ATTACK_LIMITS, lanes=1) as box:
        failures = {o.attack.name: o.failures async for o in run_attacks(box, ATTACKS)}
        print(json.dumps({"isolation": box.isolation, "ran": len(failures),
                          "failures": {name: why for name, why in failures.items() if why}}))
asyncio.run(main())
"""


@pytest.mark.bubblewrap
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_attacks_are_contained_for_an_ordinary_user(tmp_path: Path) -> None:
    command = [*ordinary_user(), sys.executable, "-B", "-c", AS_USER]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    answer = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, check=False, timeout=850)
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    assert report["isolation"] == "namespaces"
    assert report["ran"] == len(ATTACKS)
    failures = report["failures"].items()
    hard = {name: why for name, why in failures if not all(line.startswith(TIMING) for line in why)}
    assert not hard
