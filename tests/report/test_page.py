import base64
import errno
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from genprm.benchmarks.metrics import Tally
from genprm.report import write_page
from genprm.runs.folder import RunInfo
from genprm.runs.rows import FailureRow, VerifyRow, verify_row
from tests.judges import ArithmeticJudge, row

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> & \u2028"
INFO = RunInfo(command="verify", digest="0", config={"files": [HOSTILE], "threshold": 0.5}, free=[], started="now")


class Page(HTMLParser):
    """Parses the page: its elements, and the text of scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self.policy = ""
        self.outside: list[tuple[str, str | None]] = []
        self.programs: list[str] = []
        self.styles: list[str] = []
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "meta" and found.get("http-equiv"):
            self.policy = found["content"] or ""
        self.outside += [(name, value) for name, value in attrs if name in ("src", "href") or name.startswith("on")]
        self._script = found.get("id", tag) if tag in ("script", "style") else None
        if self._script == tag:
            (self.programs if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script in ("script", "style"):
            (self.programs if self._script == "script" else self.styles)[-1] += data
        elif self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


async def rows_of(*texts: str) -> list[VerifyRow]:
    judge = ArithmeticJudge()
    return [
        verify_row(row(number, text, label=-1), await judge.judge("p", [text]), seconds=1.0)
        for number, text in enumerate(texts)
    ]


def written(path, rows, **options) -> tuple[Page, int]:
    tally = Tally()
    for each in rows:
        tally.add(each)
    failures = [FailureRow(key=None, file="in.jsonl", line=3, kind="input", reason=HOSTILE)]
    left_out = write_page(path, info=INFO, metrics=tally.metrics(failed=1), rows=rows, failures=failures, **options)
    return Page(path.read_text(encoding="utf-8")), left_out


async def test_what_a_model_wrote_stays_text(tmp_path):
    rows = await rows_of(HOSTILE, "1 = 1")
    page, _ = written(tmp_path / "page.html", rows)
    assert page.tags.count("script") == 5  # two rows, the data, KaTeX, the program
    assert "img" not in page.tags
    assert page.outside == []
    assert VerifyRow.model_validate_json(page.scripts["row-0"]) == rows[0]
    data = json.loads(page.scripts["data"])
    assert data["failures"][0]["reason"] == HOSTILE
    assert [entry["first_error"] for entry in data["index"]] == [None, -1]


async def test_only_the_pages_own_script_may_run(tmp_path):
    page, _ = written(tmp_path / "page.html", await rows_of("1 = 1"))
    assert "default-src 'none'" in page.policy
    assert len(page.programs) == len(page.styles) == 2
    for name, texts in (("script-src", page.programs), ("style-src", page.styles)):
        found = re.search(rf"{name} ([^;]+)", page.policy)
        assert found is not None
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert found[1].split() == [f"'sha256-{each}'" for each in hashes]
    # Nothing in the programs turns text into markup.
    for program in page.programs:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|\bFunction\(", program)


async def test_formulas_need_no_network(tmp_path):
    page, _ = written(tmp_path / "page.html", await rows_of("1 = 1"))
    assert "trust: false" in page.programs[1]
    urls = re.findall(r"url\(([^)]{0,30})", "".join(page.styles))
    assert len(urls) == len(list((files("genprm.report") / "katex" / "fonts").iterdir()))
    assert {url.split(",")[0] for url in urls} == {"data:font/woff2;base64"}
    assert "font-src data:" in page.policy


async def test_rows_that_do_not_fit_stay_in_the_list(tmp_path):
    rows = await rows_of(*["1 = 1"] * 10)
    page, left_out = written(tmp_path / "page.html", rows, max_mb=3 * len(rows[0].model_dump_json()) / 2**20 * 1.1)
    assert left_out == 7
    assert sum(name.startswith("row-") for name in page.scripts) == 3
    assert len(json.loads(page.scripts["data"])["index"]) == 10


async def test_the_old_page_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    rows = await rows_of("1 = 1")

    def broken():
        yield rows[0]
        raise FileNotFoundError(errno.ENOENT, "gone", "rows.jsonl")

    with pytest.raises(FileNotFoundError):
        write_page(path, info=INFO, metrics=Tally().metrics(failed=0), rows=broken())
    assert path.read_text() == "old"
