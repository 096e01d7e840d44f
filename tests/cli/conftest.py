from contextlib import asynccontextmanager

import pytest

from genprm.runs import opening
from tests.judges import ArithmeticJudge


@pytest.fixture
def judge(monkeypatch):
    """What the commands open in place of a model: a judge that computes."""
    judge = ArithmeticJudge()

    @asynccontextmanager
    async def open_judge(config, *, seed, run, rows, tell):
        yield judge

    monkeypatch.setattr(opening, "open_judge", open_judge)
    return judge
