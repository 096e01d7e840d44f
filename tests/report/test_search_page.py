import json

from genprm.benchmarks.searches import evaluate_searches
from genprm.data.problems import ProblemRow
from genprm.report.search_page import write_search_page
from genprm.search.run import Method, SearchSettings, search
from tests.report.test_page import HOSTILE, INFO, Page
from tests.search.shared import TextGrader, TruthJudge
from tests.search.test_searches import digits, policy, worth


async def found(method: Method):
    row = ProblemRow("k", "f", 1, HOSTILE, "id", "2")
    settings = SearchSettings(method, n=4, width=2)
    return await search(row, settings, policy=policy(digits), prm=TruthJudge(worth), grader=TextGrader())


async def test_the_page_holds_candidates_and_trees_as_data_alone(tmp_path):
    rows = [await found(Method.BEST_OF_N), await found(Method.BEAM)]
    metrics = evaluate_searches(rows, Method.BEAM, failed=0)
    assert write_search_page(tmp_path / "p.html", info=INFO, metrics=metrics, rows=rows) == 0
    page = Page((tmp_path / "p.html").read_text())
    assert page.tags.count("script") == 3 + len(rows)
    assert page.outside == []
    beam = json.loads(page.scripts["row-1"])
    assert beam["nodes"]
    assert {node["parent"] for node in beam["nodes"]} > {-1}
    assert json.loads(page.scripts["row-0"])["problem"] == HOSTILE
    index = json.loads(page.scripts["data"])["index"]
    assert [entry["id"] for entry in index] == ["id", "id"]


async def test_rows_without_room_are_in_the_list_only(tmp_path):
    rows = [await found(Method.BEST_OF_N)]
    metrics = evaluate_searches(rows, Method.BEST_OF_N, failed=0)
    assert write_search_page(tmp_path / "p.html", info=INFO, metrics=metrics, rows=rows, max_mb=0) == 1
