"""A headless browser."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.conftest import chromium


@pytest.fixture(scope="module")
async def browser() -> AsyncGenerator[Any]:
    from playwright.async_api import async_playwright

    program = chromium()
    async with async_playwright() as play:
        opened = await play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        await opened.close()
