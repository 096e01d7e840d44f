"""The service with real judges: the built-in model with executed code, a calibration, other families; and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genprm.client import Client
from genprm.data.steps import split_steps
from genprm.data.word_problems import make_problems
from genprm.prms import load_prm
from genprm.prms.base import PRM
from genprm.prms.calibration import CalibratedPRM, Calibration
from genprm.prms.critic import Critic
from genprm.prms.thinkprm.judge import ThinkPRMJudge
from genprm.serve.settings import ServeConfig
from tests.fakes import ScriptedEngine
from tests.judges import ArithmeticJudge
from tests.prms.test_thinkprm import COT, Engine
from tests.serve.shared import command, live, says

PROBLEM = make_problems(1, seed=43_000)[0]


def critic() -> PRM:
    return Critic(ScriptedEngine.of("The second one is wrong. \\boxed{1}<eos>"))


def thinkprm() -> PRM:
    return ThinkPRMJudge(Engine.say(COT + "Is the solution correct? No<eos>", choices=((-2.4, -0.1),)))


@pytest.mark.parametrize("family", [critic, thinkprm])
async def test_other_families_answer_what_they_answer_directly(family: Any) -> None:
    steps = ["2 + 2 = 4", "4 + 1 = 6"]
    direct = await family().judge("What is 2+2+1?", steps)
    async with live(family()) as one:
        row = (await one.post("/v1/judge", {"problem": "What is 2+2+1?", "steps": steps})).json()
    assert row["first_error"] == direct.first_error == 1
    assert row["scores"] == direct.scores
    assert (row["solution"] is None) == (direct.solution is None)


async def test_scores_are_calibrated() -> None:
    calibration = Calibration(method="temperature", temperature=3.0)
    async with live(CalibratedPRM(ArithmeticJudge(), calibration)) as one:
        row = (await one.post("/v1/score", {"problem": "a", "steps": ["2 = 2", "2 = 3"]})).json()
    assert row["scores"] == pytest.approx([calibration.apply(0.9), calibration.apply(0.0)])


@pytest.mark.slow
@pytest.mark.bubblewrap
async def test_the_command_listens_on_this_machine_only_and_stores_nothing(tmp_path: Path) -> None:
    """With a calibration and executed code, as a user starts it."""
    import psutil

    calibration = tmp_path / "calibration.json"
    calibration.write_text(json.dumps({"method": "temperature", "temperature": 2.0}))
    home, folder, temporary = (tmp_path / name for name in ("home", "cwd", "tmp"))
    for one in (home, folder, temporary):
        one.mkdir()
    said: list[bytes] = []
    asked = ("--port", "0", "--sandbox", "bubblewrap", "--calibration", str(calibration))
    async with command(*asked, folder=folder, said=said, HOME=str(home), TMPDIR=str(temporary)) as (process, url):
        where = {one.laddr.ip for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"}
        assert where == {"127.0.0.1"}
        steps = [*PROBLEM.solution[:-1], "So 2+2 = 5. The answer is \\boxed{5}."]
        row = await Client(url, raise_errors=True).ajudge(PROBLEM.text, steps, answer=PROBLEM.answer)
        assert row is not None
        assert row["first_error"] == len(steps) - 1
        assert row["steps"][-1]["chains"][0]["code"][0]["stdout"].strip()
        assert 0.01 < row["scores"][0] < 0.999  # the built-in model is surer than that
        process.terminate()
        said += await process.communicate()
    assert process.returncode == 0
    kept = [path for place in (home, folder, temporary) for path in place.rglob("*") if path.is_file()]
    for text in (PROBLEM.text, steps[-1]):
        assert text.encode() not in b"".join(said)
        assert not [path for path in kept if text.encode() in path.read_bytes()]
    assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.bubblewrap
async def test_the_page_shows_what_the_code_printed_and_needs_no_mouse(browser: Any) -> None:
    prm = await load_prm("nano", sandbox="bubblewrap")
    try:
        async with live(prm, ServeConfig(ui=True)) as one:
            page = await (await browser.new_context(base_url=one.url)).new_page()
            await page.goto("/")
            await page.focus("#example")
            await page.keyboard.press("ArrowDown")
            problem = await page.input_value("#problem")
            reached: list[str] = []
            for _ in range(3):
                await page.keyboard.press("Tab")
                reached.append(await page.evaluate("document.activeElement.id"))
            assert reached == ["problem", "solution", "go"]
            await page.keyboard.press("Enter")
            await says(page, "#status", "Done")
            # What a screen reader is given: names, roles and the live status.
            heard = await page.locator("main").aria_snapshot()
            for part in (
                'heading "Judge a solution"',
                'textbox "Problem"',
                'button "Judge"',
                'status: "Done: error at step 2.',
                'group "Step 2: wrong 0.000"',
            ):
                assert part in heard, heard
            shown = await page.inner_text("#steps")
            direct = await prm.judge(problem, split_steps(await page.input_value("#solution")))
            printed = [run.stdout.strip() for step in direct.steps for chain in step.chains for run in chain.code]
            assert any(printed)
            assert all(text in shown for text in printed)
    finally:
        await prm.close()
