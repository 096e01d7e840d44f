"""Opening a judge: failures are reported at once, and the configuration takes effect."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from genprm.calibrate import save
from genprm.engines import EngineError
from genprm.prms import load_prm
from genprm.prms.base import CalibratedVotes, StepwisePRM
from genprm.prms.calibration import CalibratedPRM, Calibration, CalibrationError
from genprm.sandbox import docker
from tests.fakes import ScriptedEngine


@pytest.fixture
def endless_build(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A Docker image that is being built until the event is set."""
    built = threading.Event()

    def build(*_: object) -> object:
        built.wait()
        raise AssertionError("nobody waits for this")

    monkeypatch.setattr(docker, "open_backend", build)
    return built


async def test_a_model_that_fails_does_not_wait_for_the_sandbox(endless_build: threading.Event, tmp_path: Path) -> None:
    (tmp_path / "genprm.json").write_text('{"family": "genprm"}')
    with pytest.raises(EngineError):
        await load_prm(str(tmp_path), engine="transformers", sandbox="docker")
    endless_build.set()


def test_the_process_does_not_wait_for_it_either(endless_build: threading.Event) -> None:
    async def cancelled() -> None:
        loading = asyncio.create_task(load_prm(engine=ScriptedEngine.of(), sandbox="docker"))
        await asyncio.sleep(0.1)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading

    # The end of `run` joins the threads of `to_thread`.
    asyncio.run(cancelled())
    endless_build.set()


async def test_a_calibration_is_in_force_wherever_a_judge_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    save(Calibration(method="temperature", temperature=2.0), path)
    genprm = await load_prm(engine=ScriptedEngine.of(), mode="analyze", calibration=str(path))
    # It calibrates its votes itself, and a search still extends its judgements.
    assert isinstance(genprm, CalibratedVotes)
    assert isinstance(genprm, StepwisePRM)
    assert genprm.calibration is not None
    critic = await load_prm("any", family="critic", engine=ScriptedEngine.of(), calibration=str(path))
    assert isinstance(critic, CalibratedPRM)
    with pytest.raises(CalibrationError, match="cannot read the calibration"):
        await load_prm(engine=ScriptedEngine.of(), mode="analyze", calibration=str(tmp_path / "none.json"))
