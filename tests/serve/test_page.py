"""The page, driven in headless Chromium against a live service."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from genprm.data.inputs import InputRow, Record, parse_row
from genprm.runs.folder import open_run
from genprm.runs.rows import verify_row
from genprm.serve.settings import ServeConfig
from tests.judges import ArithmeticJudge
from tests.serve.shared import Live, SteppedJudge, live, says

pytestmark = [pytest.mark.slow, pytest.mark.browser]
HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
SHOTS = os.environ.get("GENPRM_TEST_SCREENSHOTS")
"""A folder to keep screenshots in, to be looked at."""


async def _write(folder: Path, judge: ArithmeticJudge) -> None:
    with open_run(folder, command="verify", config={"model": "arithmetic"}) as run:
        for number in range(130):
            steps = ["2 = 2", f"{number} = {number % 7}", "$x^2$ = $x^2$"]
            value = {"id": f"row-{number:03}", "problem": f"Problem {number} {HOSTILE}", "steps": steps, "label": 1}
            row = parse_row(Record("in", 1, value))
            assert isinstance(row, InputRow)
            run.add(verify_row(row, await judge.judge(row.problem, row.steps), seconds=1.0), row.key)


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Live]:
    runs = tmp_path_factory.mktemp("runs")
    await _write(runs / "one", ArithmeticJudge())
    await _write(runs / "other", ArithmeticJudge(threshold=0.95))
    (runs / "no run").mkdir()
    async with live(SteppedJudge(step_s=0.3), ServeConfig(ui=True, runs=runs)) as one:
        yield one


@pytest.fixture(params=["light", "dark", "narrow"])
async def page(served: Live, browser: Any, request: pytest.FixtureRequest) -> AsyncGenerator[Any]:
    narrow = request.param == "narrow"
    size = {"width": 390, "height": 844} if narrow else {"width": 1280, "height": 900}
    context = await browser.new_context(
        base_url=served.url, viewport=size, color_scheme="dark" if request.param == "dark" else "light"
    )
    problems: list[str] = []
    opened = await context.new_page()
    opened.set_default_timeout(20_000)
    opened.on("console", lambda one: problems.append(one.text) if one.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.kind = request.param
    yield opened
    assert not problems
    assert await opened.evaluate("window.hacked") is None
    # Nothing is wider than the screen.
    assert await opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await context.close()


async def _shoot(page: Any, name: str) -> None:
    if SHOTS:
        await page.screenshot(path=f"{SHOTS}/{name}-{page.kind}.png", full_page=True)


async def test_a_judgement_is_watched_to_its_end(page: Any) -> None:
    await page.goto("/")
    await page.fill("#problem", f"What is $1 + 1$? {HOSTILE}")
    await page.fill("#solution", f"2 = 2\n\n2 = 3 {HOSTILE}\n\n$\\frac{{1}}{{2}}$ = $\\frac{{1}}{{2}}$")
    await page.click("#go")
    await page.wait_for_selector(".step.waiting")
    await page.wait_for_selector(".step:not(.waiting) .head .badge.right")
    assert await page.locator(".step.waiting").count() > 0  # the first is shown while the others are being judged
    await says(page, "#status", "Done")
    assert "error at step 2" in await page.inner_text("#status")
    assert await page.locator(".step").count() == 3
    assert await page.locator(".step.first .head .badge.wrong").count() == 1
    assert "I compare 2 = 2" in await page.inner_text("#steps")
    assert "print(1)" in await page.inner_text("#steps")
    assert "<script>" in await page.inner_text(".step.first")
    assert await page.locator("#steps .katex .mfrac").count() > 0
    await _shoot(page, "judge")


async def test_it_is_stopped_and_says_what_is_wrong(page: Any, served: Live) -> None:
    await page.goto("/")
    await page.select_option("#example", "0")
    assert "clips" in await page.input_value("#problem")
    await page.fill("#solution", "2 = 2\n\nwait")
    # The keyboard alone is enough.
    await page.focus("#solution")
    await page.keyboard.press("Control+Enter")
    await page.wait_for_selector(".step .badge.right")
    await page.click("#stop")
    await says(page, "#status", "Stopped.")
    await page.fill("#solution", "raise\n\n2 = 2")
    await page.click("#go")
    await says(page, "#status", "the server is gone")


async def test_a_run_is_browsed(page: Any) -> None:
    await page.goto("/")
    await page.click("#runs-tab")
    await page.select_option("#run", "one")
    await says(page, "#run-status", "130 of 130 rows")
    assert await page.locator("#rows tbody tr").count() == 100
    await page.click("#more")
    assert await page.locator("#rows tbody tr").count() == 130
    await page.select_option("#filter", label="No error")
    await says(page, "#run-status", "7 of 130 rows")
    await page.select_option("#filter", label="All rows")
    await page.fill("#search", "row-042")
    await says(page, "#run-status", "1 of 130 rows")
    await page.click("#rows button")
    await page.wait_for_selector("#row .step.first")
    assert "42 = 0" in await page.inner_text("#row")
    assert "I compare 42 = 0" in await page.inner_text("#row")
    assert HOSTILE in await page.inner_text("#row .problem")
    assert await page.locator("#plot svg rect").count() == 20
    await _shoot(page, "runs")


async def test_two_runs_are_compared(page: Any) -> None:
    await page.goto("/#compare")
    await page.wait_for_selector("#run-a option:nth-child(2)", state="attached")
    await page.select_option("#run-a", "one")
    await page.select_option("#run-b", "other")
    await says(page, "#compare-status", "130 rows in both, 0 judged alike. As labelled: 123 and 0 of 130.")
    assert await page.locator("#pairs tbody tr").count() == 130
    await _shoot(page, "compare")


async def test_files_that_are_not_the_pages(served: Live) -> None:
    for path in ("/page/../settings.py", "/page/katex/LICENSE", "/page/%2e%2e/app.py"):
        assert (await served.http.get(path)).status_code == 404, path
    for name in ("%2e%2e", "no run", "%2e%2e%2f", "missing"):
        assert (await served.http.get(f"/v1/runs/{name}")).status_code in (404, 307)
    assert (await served.http.get("/v1/runs/one/rows/130")).status_code == 404
    assert (await served.http.get("/v1/runs/one/rows/-1")).status_code == 404
    policy = (await served.http.get("/")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_a_late_answer_does_not_replace_a_newer_one(page: Any) -> None:
    held: list[Any] = []

    async def hold(route: Any) -> None:
        held.append(route)

    await page.goto("/#runs")
    await page.select_option("#run", "one")
    await says(page, "#run-status", "130 of 130 rows")
    await page.route("**/rows/0", hold)
    await page.click("#rows button >> nth=0")
    await page.click("#rows button >> nth=1")
    await says(page, "#row", "1 = 1")
    await held[0].continue_()
    await page.wait_for_load_state("networkidle")
    assert "1 = 1" in await page.inner_text("#row")
    await page.unroute("**/rows/0")
    await page.route("**/rows/2", lambda route: route.fulfill(status=200, body="no JSON"))
    await page.click("#rows button >> nth=2")
    await says(page, "#row .notice", "JSON")  # and not nothing
