"""The pages in use: keys, folds and the list, in headless Chromium."""

from contextlib import asynccontextmanager

import pytest

from genprm.benchmarks.searches import evaluate_searches
from genprm.report.search_page import write_search_page
from genprm.search.run import Method
from tests.report.test_page import HOSTILE, INFO, rows_of, written
from tests.report.test_search_page import found
from tests.serve.shared import says

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@asynccontextmanager
async def opened(browser, path, width=1280):
    context = await browser.new_context(viewport={"width": width, "height": 800})
    page = await context.new_page()
    problems = []
    page.on("console", lambda one: problems.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda one: problems.append(one.message))
    await page.goto(path.as_uri())
    yield page
    assert not problems
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await context.close()


async def test_keys_lead_through_the_rows_and_from_error_to_error(browser, tmp_path):
    written(tmp_path / "page.html", await rows_of("1 = 1", "2 = 3", "3 = 3", "4 = 5"))
    async with opened(browser, tmp_path / "page.html") as page:
        await says(page, "#row", "1 = 1")
        for key, shown in (("e", "2 = 3"), ("e", "4 = 5"), ("k", "3 = 3"), ("j", "4 = 5"), ("k", "3 = 3")):
            await page.keyboard.press(key)
            await says(page, "#row", shown)
        await page.click("#error")
        await says(page, "#row", "4 = 5")
        await page.focus("#search")
        await page.keyboard.type("e")  # is text there
        await says(page, "#row", "4 = 5")
        assert await page.input_value("#search") == "e"
        step = page.locator('#row section[aria-label^="Step 1: No 0"]')
        assert await step.count() == 1


@pytest.mark.parametrize("width", [1280, 400])
async def test_a_search_is_read_candidate_by_candidate(browser, tmp_path, width):
    rows = [await found(Method.BEST_OF_N), await found(Method.BEAM)]
    metrics = evaluate_searches(rows, Method.BEAM, failed=0)
    write_search_page(tmp_path / "page.html", info=INFO, metrics=metrics, rows=rows)
    async with opened(browser, tmp_path / "page.html", width) as page:
        assert await page.locator("#row .candidate").count() == len(rows[0].candidates)
        fold = page.locator("#row .candidate details").first
        await fold.locator("summary").click()
        assert await fold.locator(".number").first.inner_text() == "1"
        await page.keyboard.press("j")
        await page.wait_for_selector("#row .tree li")
        assert await page.locator("#row .tree li").count() >= 2
        assert HOSTILE.split("\u2028")[0].strip() in await page.inner_text("#row")
