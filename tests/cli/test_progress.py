import io

import pytest
from rich.console import Console

from genprm.cli.progress import describe, duration, shown
from genprm.runs.driver import Progress


def test_rate_and_time_left_come_from_this_run_alone():
    progress = Progress(total=100, judged=18, kept=50, failed=2, generated=9000)
    assert describe(progress, 10.0) == "70/100 rows, 2 failed, 2.0 rows/s, 900 tokens/s, 15 s left"


def test_without_a_total_and_slow():
    assert describe(Progress(judged=1), 120.0) == "1 row, 0.5 rows/min"
    assert describe(Progress(kept=5), 1.0) == "5 rows"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.6, "1:00"), (185, "3:05"), (7385, "2:03:05")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    with shown(Console(file=out), every_s=0.0) as on_progress:
        on_progress(Progress(total=2, judged=1))
    with shown(Console(file=out), every_s=60.0) as on_progress:
        on_progress(Progress(total=2, judged=2))
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("1/2 rows, ")


def test_a_bar_on_a_terminal():
    out = io.StringIO()
    with shown(Console(file=out, force_terminal=True, width=100)) as on_progress:
        on_progress(Progress(total=2, judged=1))
    assert "1/2 rows" in out.getvalue()
