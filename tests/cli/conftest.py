from contextlib import asynccontextmanager

import pytest

from genprm.cli import terminal
from genprm.runs import opening
from tests.judges import ArithmeticJudge


@pytest.fixture(autouse=True)
def _new_consoles():
    """A console keeps the width that it was made with: every test makes its own."""
    for console in (terminal.stdout, terminal.stderr, terminal.notes):
        console.cache_clear()
    yield
    for console in (terminal.stdout, terminal.stderr, terminal.notes):
        console.cache_clear()


@pytest.fixture
def judge(monkeypatch):
    """What the commands open in place of a model: a judge that computes."""
    judge = ArithmeticJudge()

    @asynccontextmanager
    async def open_judge(config, *, seed, run, rows, tell):
        yield judge

    monkeypatch.setattr(opening, "open_judge", open_judge)
    return judge
