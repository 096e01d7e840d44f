"""A headless browser."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.sandbox.conftest import missing


@pytest.fixture(scope="module")
async def browser() -> AsyncGenerator[Any]:
    from playwright.async_api import async_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        missing("chromium is not installed")
    async with async_playwright() as play:
        opened = await play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        await opened.close()
