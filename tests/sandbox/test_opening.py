"""Choosing a backend: never silently less isolation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from genprm.sandbox import Limits, SandboxError, binds, bubblewrap, open_sandbox
from genprm.sandbox.checks import Level, diagnose
from tests.conftest import missing

from .conftest import no_bubblewrap


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "gvisor"}, "where a service answers .*, not 'gvisor'"),
        ({"lanes": 0}, "lanes must be between 1 and 1024, not 0"),
        ({"backend": "bubblewrap", "runtime": "runsc"}, "runtime 'runsc' is for Docker"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_sandbox(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [{"wall_s": 0}, {"cpu_s": 1e9}, {"memory_mb": 1}, {"output_kb": 0}])
def test_bad_limits_are_named(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        Limits(**field)  # type: ignore[arg-type]


async def test_docker_says_in_one_message_that_no_engine_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(SandboxError, match="no Docker engine answers"):
        await open_sandbox("docker").start()


@pytest.mark.bubblewrap
async def test_auto_takes_bubblewrap_without_an_engine_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := no_bubblewrap():
        missing(reason)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    async with open_sandbox("auto", lanes=1) as box, box.session() as session:
        assert box.backend == "bubblewrap"
        assert "because no Docker engine answers" in box.note
        assert (await session.run("print(1)")).ok


@pytest.mark.docker
async def test_auto_takes_docker_when_it_can() -> None:
    try:
        box = await open_sandbox("docker", lanes=1).start()
    except SandboxError as error:
        missing(str(error))
        return
    await box.close()
    async with open_sandbox("auto", lanes=1) as box:
        assert box.backend == "docker"
        assert "Docker engine" in box.note


async def test_with_neither_it_stops_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        SandboxError,
        match=r"no Docker engine .*; bubblewrap is not installed.*; Podman is not installed.*genprm sandbox serve",
    ):
        await open_sandbox("auto").start()
    with pytest.raises(SandboxError, match="bubblewrap is not installed"):
        await open_sandbox("bubblewrap").start()


@pytest.mark.docker
async def test_an_unknown_runtime_is_refused_even_by_auto() -> None:
    with pytest.raises(SandboxError, match=r"no runtime 'nosuch'|no Docker engine"):
        await open_sandbox("auto", runtime="nosuch").start()


async def test_a_sandbox_that_is_not_open_says_so() -> None:
    box = open_sandbox("bubblewrap")
    with pytest.raises(SandboxError, match="async with"):
        await box.session().run("print(1)")
    with pytest.raises(SandboxError, match="async with"):
        _ = box.backend


@pytest.mark.bubblewrap
def test_bubblewrap_shows_the_interpreter_and_four_packages_only() -> None:
    inside = [inside for _, inside in binds.find_layout().binds]
    assert all(path.startswith(binds.ROOT + "/") or path.startswith("/lib") for path in inside)
    site = {path.removeprefix(binds.ROOT + "/site/").split(".")[0] for path in inside if "/site/" in path}
    assert site == set(binds.PACKAGES)
    command = bubblewrap.bwrap_command(Limits())
    assert "--unshare-net" in command
    assert "--bind" not in command


@pytest.mark.bubblewrap
def test_what_this_process_preloads_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    binds.find_layout.cache_clear()
    before = binds.find_layout()
    library = next(outside for outside, inside in before.binds if inside.endswith("/libm.so.6"))
    binds.find_layout.cache_clear()
    monkeypatch.setenv("LD_PRELOAD", library)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(library).parent))
    assert binds.find_layout() == before


@pytest.mark.bubblewrap
async def test_bubblewrap_names_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := no_bubblewrap():
        missing(reason)
    monkeypatch.setattr(binds, "PACKAGES", ("numpy", "no_such_package"))
    binds.find_layout.cache_clear()
    try:
        with pytest.raises(SandboxError, match="needs 'no_such_package' in this environment"):
            await open_sandbox("bubblewrap").start()
    finally:
        binds.find_layout.cache_clear()


def test_the_diagnosis_names_what_the_sandbox_stands_on() -> None:
    checks = diagnose()
    names = {check.name for check in checks}
    assert {
        "kernel",
        "seccomp",
        "landlock",
        "control groups",
        "user namespaces",
        "docker engine",
        "bubblewrap",
    } <= names
    assert all(check.text and isinstance(check.level, Level) for check in checks)


@pytest.mark.parametrize(
    ("version", "level"), [("1.1.5+ds1", Level.WARN), ("1.1.12", Level.WARN), ("1.2.8", Level.OK), ("1.3.3", Level.OK)]
)
def test_a_runc_with_known_escapes_is_warned_of(version: str, level: Level) -> None:
    from genprm.sandbox import checks

    assert checks._known_escapes("runc", version, checks._RUNC_FIXES).level is level  # pyright: ignore[reportPrivateUsage]


@pytest.mark.docker
def test_the_image_is_named_by_what_goes_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genprm.sandbox import image

    before = image.content()
    assert before == image.content()
    copy = tmp_path / "sandbox"
    subprocess.run(["cp", "-r", str(Path(image.__file__).resolve().parent), str(copy)], check=True)
    monkeypatch.setattr(image, "_HERE", copy)
    assert image.content() == before
    (copy / "guest" / "session.py").write_text("x = 1\n")
    assert image.content() != before
