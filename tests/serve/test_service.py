"""The service's own endpoints, with a judge whose answers are known."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from genprm.cli.main import app as cli
from genprm.engines.errors import ContextOverflowError, EngineError
from genprm.grading.grades import Grade
from genprm.runs.folder import open_run, read_rows_of
from genprm.runs.rows import VerifyRow
from genprm.serve.outcomes import Outcomes
from genprm.serve.settings import ServeConfig, ServeError
from tests.judges import ArithmeticJudge
from tests.serve.shared import PROBLEM, Live, SteppedJudge, events_of, live, until

GOOD, BAD = "2 = 2", "2 = 3"


async def test_a_judgement_is_a_row_of_verify() -> None:
    async with live(ArithmeticJudge()) as one:
        body = {"problem": PROBLEM, "steps": [GOOD, BAD], "id": "a"}
        row = (await one.post("/v1/judge", body)).json()
        assert (row["scores"], row["first_error"], row["verdicts"]) == ([0.9, 0.0], 1, ["Yes", "No"])
        assert (row["id"], row["complete"], row["correct"], row["reward"]) == ("a", True, None, 0.0)
        assert row["steps"][0]["chains"][0]["code"][0]["stdout"] == "1\n"
        assert VerifyRow.model_validate(row).key == row["key"]
        few = (await one.post("/v1/judge", {**body, "keep": "scores"})).json()
        assert few["problem"] is None
        assert few["steps"][0]["chains"] == []
        assert few["scores"] == row["scores"]


async def test_many_come_back_in_order_and_one_that_fails_takes_no_other_with_it() -> None:
    judge = ArithmeticJudge(error=ContextOverflowError("it does not fit"))
    async with live(judge) as one:
        items = [{"problem": f"{n}?", "steps": ["raise"] if n == 3 else [f"{n} = {n % 2}"]} for n in range(8)]
        rows = (await one.post("/v1/judge", {"items": items})).json()["rows"]
        assert [row.get("problem") for row in rows] == [f"{n}?" if n != 3 else None for n in range(8)]
        assert rows[3] == {"id": None, "error": {"type": "too_long", "message": "it does not fit"}}
        scores = (await one.post("/v1/score", {"items": items})).json()["rows"]
        assert [row.get("scores") for row in scores] == [[0.9], [0.9], [0.0], None, *[[0.0]] * 4]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (EngineError("gone"), 503, "engine"),
        (ContextOverflowError("long"), 422, "too_long"),
        (KeyError("a bug"), 500, "internal"),
    ],
)
async def test_errors_of_one(error: Exception, status: int, kind: str) -> None:
    async with live(ArithmeticJudge(error=error)) as one:
        for path in ("/v1/judge", "/v1/score", "/v1/critique"):
            response = await one.post(path, {"problem": PROBLEM, "steps": ["raise"]})
            assert response.status_code == status
            assert response.json()["error"]["type"] == kind
            assert ("Retry-After" in response.headers) == (status == 503)


async def test_scores_name_the_places_of_the_steps() -> None:
    async with live(ArithmeticJudge()) as one:
        solution = "Step 1: 2 = 2\nand\n\n  Step 2: 2 = 3\n"
        row = (await one.post("/v1/score", {"problem": PROBLEM, "solution": solution})).json()
        assert [solution[start:end] for start, end in row["spans"]] == ["Step 1: 2 = 2\nand", "Step 2: 2 = 3"]
        thought = f"<think>Step 2: 2 = 3</think>{solution}"
        row = (await one.post("/v1/score", {"problem": PROBLEM, "solution": thought})).json()
        assert [thought[start:end] for start, end in row["spans"]] == ["Step 1: 2 = 2\nand", "Step 2: 2 = 3"]
        assert row["spans"][0][0] > len("<think>Step 2: 2 = 3</think>") - 1


@pytest.mark.parametrize(
    ("more", "correct", "reward"),
    [
        ({}, None, 0.9),
        ({"correct": True}, True, 0.95),
        ({"correct": False}, False, 0.0),
        ({"answer": "2"}, True, 0.95),
        ({"answer": "3"}, False, 0.0),
    ],
)
async def test_rewards_are_gated(more: dict[str, Any], correct: bool | None, reward: float) -> None:
    async with live(ArithmeticJudge()) as one:
        steps = [GOOD, "\\boxed{2} = \\boxed{2}"]
        row = (await one.post("/v1/score", {"problem": PROBLEM, "steps": steps, **more})).json()
        assert (row["correct"], row["violation"]) == (correct, None)
        assert row["reward"] == pytest.approx(reward)
        farmed = {"problem": PROBLEM, "steps": [*steps, "</analyze> = </analyze>"], **more}
        row = (await one.post("/v1/score", farmed)).json()
        assert row["violation"].startswith("imitation")
        assert row["reward"] == 0.0


async def test_critique() -> None:
    async with live(ArithmeticJudge()) as one:
        row = (await one.post("/v1/critique", {"problem": PROBLEM, "steps": [GOOD, BAD], "style": "code"})).json()
        assert row["step"] == 1
        assert "I compare 2 = 3" in row["message"]
        assert not row["accepted"]
        row = (await one.post("/v1/critique", {"problem": PROBLEM, "steps": [GOOD]})).json()
        assert row["accepted"]
        assert row["message"] is None


async def test_a_stream_tells_of_each_step_when_it_is_judged() -> None:
    async with live(SteppedJudge(step_s=0.05)) as one:
        body = {"problem": PROBLEM, "solution": f"{GOOD}\n\n{BAD}", "stream": True}
        times: list[float] = []
        text = ""
        async with one.http.stream("POST", "/v1/judge", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            async for chunk in response.aiter_text():
                text += chunk
                times += [time.monotonic()] * chunk.count("event: step")
        events = events_of(text)
        assert [kind for kind, _ in events] == ["open", "step", "step", "row", "end"]
        assert json.loads(events[0][1])["items"][0]["steps"] == [GOOD, BAD]
        first = json.loads(events[1][1])
        assert (first["item"], first["index"], first["score"], first["step"]) == (0, 0, 0.9, GOOD)
        assert json.loads(events[3][1])["scores"] == [0.9, 0.0]
        assert times[1] - times[0] > 0.02


async def test_a_stream_of_many_and_of_one_that_fails() -> None:
    async with live(SteppedJudge()) as one:
        items = [{"problem": "a", "steps": [GOOD]}, {"problem": "b", "steps": ["raise"]}]
        events = events_of((await one.post("/v1/judge", {"items": items, "stream": True})).text)
        kinds = [kind for kind, _ in events]
        assert sorted(kinds) == ["end", "error", "open", "row", "step"]
        assert json.loads(events[kinds.index("error")][1])["item"] == 1
        refused = await one.post("/v1/judge", {"problem": " ", "steps": [GOOD], "stream": True})
        assert refused.status_code == 422


async def test_at_the_deadline_what_is_judged_comes_back() -> None:
    judge = SteppedJudge()
    async with live(judge) as one:
        started = time.monotonic()
        body = {"problem": PROBLEM, "steps": [GOOD, "wait", GOOD], "timeout_s": 0.4}
        row = (await one.post("/v1/judge", body)).json()
        assert time.monotonic() - started < 5
        assert row["scores"] == [0.9, None, None]
        assert row["complete"] is False
        assert row["first_error"] is None
        assert row["reward"] is None
        assert row["steps"][1]["reason"] == "not judged: 0.4 s had passed"
        await until(lambda: judge.cancelled == 1)
        assert await one.metric("genprm_partial_total") == 1
        events = events_of((await one.post("/v1/judge", {**body, "stream": True})).text)
        assert [kind for kind, _ in events] == ["open", "step", "row", "end"]
        score = (await one.post("/v1/score", body)).json()
        assert score["scores"] == [0.9, None, None]
        assert "had passed" in score["reason"]


@pytest.mark.slow
async def test_waiting_counts_towards_the_deadline() -> None:
    async with live(SteppedJudge(), ServeConfig(max_in_flight=1)) as one:
        first = asyncio.create_task(one.post("/v1/score", {"problem": "a", "steps": ["wait"], "timeout_s": 2}))
        await asyncio.sleep(0.1)
        row = (await one.post("/v1/score", {"problem": "b", "steps": [GOOD], "timeout_s": 0.3})).json()
        assert row["scores"] == [None]
        assert (await first).json()["scores"] == [None]
        assert (await one.post("/v1/score", {"problem": "c", "steps": [GOOD]})).json()["scores"] == [0.9]


async def test_a_client_that_goes_away_frees_the_judge() -> None:
    judge = SteppedJudge()
    async with live(judge, ServeConfig(max_in_flight=1)) as one:
        for stream in (False, True):
            body = {"problem": PROBLEM, "steps": [GOOD, "wait"], "stream": stream}
            with pytest.raises(httpx.TimeoutException):
                await one.post("/v1/judge", body, timeout=0.3)
            await until(lambda: judge.in_flight == 0)
        assert judge.cancelled == 2
        assert (await one.post("/v1/score", {"problem": "c", "steps": [GOOD]})).json()["scores"] == [0.9]
        assert await one.metric('genprm_solutions_total{outcome="abandoned"}') == 2


async def test_equal_requests_under_way_are_judged_once() -> None:
    judge = SteppedJudge(step_s=0.3)
    async with live(judge) as one:
        body = {"problem": PROBLEM, "steps": [GOOD, BAD]}
        rows = await asyncio.gather(*(one.post("/v1/score", {**body, "id": str(n)}) for n in range(20)))
        assert [row.json()["id"] for row in rows] == [str(n) for n in range(20)]
        assert all(row.json()["scores"] == [0.9, 0.0] for row in rows)
        assert judge.judged == [PROBLEM]
        assert await one.metric("genprm_shared_total") == 19
        # The first client may disconnect without ending it for the others.
        impatient = asyncio.create_task(one.post("/v1/score", {**body, "seed": 1}, timeout=0.2))
        await asyncio.sleep(0.1)
        patient = asyncio.create_task(one.post("/v1/score", {**body, "seed": 1}))
        with pytest.raises(httpx.TimeoutException):
            await impatient
        assert (await patient).json()["scores"] == [0.9, 0.0]
        assert judge.cancelled == 0
        # Another seed is another judgement, and so is a later request: nothing is cached.
        await one.post("/v1/score", body)
        assert len(judge.judged) == 3


@pytest.mark.slow
async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    judge = SteppedJudge(step_s=0.5)
    async with live(judge, ServeConfig(max_in_flight=1, queue=2)) as one:
        posts = [one.post("/v1/score", {"problem": str(n), "steps": [GOOD]}) for n in range(6)]
        answers = await asyncio.gather(*posts)
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert "the limit is 2" in refused.json()["error"]["message"]
        too_many = {"items": [{"problem": str(n), "steps": [GOOD]} for n in range(4)]}
        assert (await one.post("/v1/score", too_many)).status_code == 413
        assert judge.most_in_flight == 1


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({}, 422, "problem"),
        ({"problem": PROBLEM}, 422, "solution"),
        ({"problem": PROBLEM, "steps": []}, 422, "steps"),
        ({"problem": PROBLEM, "steps": [GOOD, " ", GOOD]}, 422, "step 1"),
        ({"problem": PROBLEM, "steps": [GOOD], "solution": GOOD}, 422, "either"),
        ({"problem": PROBLEM, "steps": [GOOD], "votes": 3}, 422, "votes"),
        ({"problem": PROBLEM, "steps": [GOOD], "timeout_s": 0}, 422, "timeout_s"),
        ({"problem": "x" * 2000, "steps": [GOOD]}, 422, "exceed max_chars, 1000"),
        ({"items": [{"problem": PROBLEM, "steps": [GOOD]}] * 5}, 413, "exceed max_items, 4"),
        ({"items": [{"problem": PROBLEM, "steps": [GOOD]}, {"problem": PROBLEM, "steps": [" "]}]}, 422, "items[1]"),
        ({"items": [], "problem": PROBLEM}, 422, "items"),
        ({"problem": "\ud800", "steps": [GOOD]}, 422, "unicode"),
    ],
)
async def test_limits_are_named(body: dict[str, Any], status: int, named: str) -> None:
    async with live(ArithmeticJudge(), ServeConfig(max_steps=8, max_chars=1000, max_items=4)) as one:
        headers = {"Content-Type": "application/json"}
        for path in ("/v1/judge", "/v1/score", "/v1/critique"):
            response = await one.http.post(path, content=json.dumps(body), headers=headers)
            assert response.status_code == status, response.text
            assert named in response.json()["error"]["message"]


UNFIT = {
    "too_many_steps": "\n\n".join([GOOD] * 9),
    "too_long": f"{GOOD} " * 200,
    "unfinished": "hm</think><think>hm",
    "empty": "<think>hm</think> ",
}


@pytest.mark.parametrize("kind", UNFIT)
async def test_a_solution_that_cannot_be_judged_takes_no_other_with_it(kind: str) -> None:
    items = [{"problem": PROBLEM, "solution": text} for text in (UNFIT[kind], GOOD)]
    async with live(ArithmeticJudge(), ServeConfig(max_steps=8, max_chars=1000)) as one:
        bad, good = (await one.post("/v1/score", {"items": items})).json()["rows"]
        assert (bad["scores"], bad["reward"], bad["violation"].partition(":")[0]) == ([], 0.0, kind)
        assert good["scores"] == [0.9]
        alone = (await one.post("/v1/score", items[0])).json()
        assert alone == bad
        for path in ("/v1/judge", "/v1/critique"):
            bad, good = (await one.post(path, {"items": items})).json()["rows"]
            assert bad["error"]["type"] == kind
            assert "error" not in good
            assert (await one.post(path, items[0])).status_code == 422
        streamed = events_of((await one.post("/v1/judge", {"items": items, "stream": True})).text)
        assert [kind for kind, _ in streamed if kind in ("row", "error")] == ["error", "row"]
        assert (await one.post("/v1/judge", {**items[0], "stream": True})).status_code == 422


async def test_settings_beside_items_are_refused() -> None:
    async with live(ArithmeticJudge()) as one:
        items = [{"problem": PROBLEM, "steps": [GOOD]}]
        for misplaced in ({"correct": False}, {"seed": 3}, {"answer": ""}):
            response = await one.post("/v1/score", {"items": items, **misplaced})
            assert response.status_code == 422
            assert next(iter(misplaced)) in response.json()["error"]["message"]


async def test_requests_abandoned_in_the_queue_end_quietly() -> None:
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()  # that of all tests
    usual = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    try:
        async with live(SteppedJudge(step_s=5), ServeConfig(max_in_flight=1)) as one:
            items = [{"problem": str(number), "steps": [GOOD]} for number in range(4)]
            rows = (await one.post("/v1/score", {"items": items, "timeout_s": 0.2})).json()["rows"]
            assert [row["complete"] for row in rows] == [False] * 4
            await until(lambda: one.app.service.desk._idle.is_set())  # pyright: ignore[reportPrivateUsage]
            assert await one.metric("genprm_solutions_in_flight") == 0
            assert (await one.post("/v1/score", {**items[0], "timeout_s": 0.2})).status_code == 200
    finally:
        loop.set_exception_handler(usual)
    assert not errors


async def test_draining_waits_for_answers_that_are_compared() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    class Slow:
        async def grade(self, answer: str, solutions: Sequence[str]) -> list[Grade]:
            entered.set()
            await go.wait()
            return [Grade("2", True)]

    outcomes = Outcomes(Slow())  # type: ignore[arg-type]  # pyright: ignore
    async with asyncio.timeout(30), live(ArithmeticJudge(), outcomes=outcomes) as one:
        sent = {"prompt": PROBLEM, "response": GOOD, "label": "2"}
        work = asyncio.create_task(one.post("/rm", sent))
        await entered.wait()
        desk = one.app.service.desk
        drained = asyncio.create_task(desk.drain(30))
        await until(lambda: desk.draining)
        assert (await one.post("/rm", sent)).status_code == 503
        assert not drained.done()
        go.set()
        assert (await work).json() == pytest.approx(0.95)
        await drained


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b"NaN",
        b'{"problem": "a", "steps": ["1 = 1"], "timeout_s": NaN}',
        b"null",
    ],
)
async def test_what_is_no_request_is_refused(body: bytes) -> None:
    async with live(ArithmeticJudge()) as one:
        for path in ("/v1/judge", "/get_reward", "/rm", "/verify", "/pooling"):
            response = await one.http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert response.status_code in (400, 422), response.text
            assert response.json()["error"]["message"]


@pytest.mark.parametrize("ui", [False, True])
async def test_a_body_above_the_limit_is_not_read(ui: bool) -> None:
    async with live(ArithmeticJudge(), ServeConfig(max_body_mb=0.01, ui=ui)) as one:

        async def endless() -> Any:
            for _ in range(1000):
                yield b" " * 1024

        big = await one.http.post("/v1/judge", content=b" " * 20_000)
        chunked = await one.http.post("/v1/judge", content=endless())
        for response in (big, chunked):
            assert response.status_code == 413
            assert "max_body_mb, 0.01 MiB" in response.json()["error"]["message"]


async def test_the_pages_files_are_safe() -> None:
    async with live(ArithmeticJudge(), ServeConfig(ui=True)) as one:
        assert (await one.http.get("/page/katex/fonts/%00.woff2")).status_code == 404
        assert (await one.http.get("/")).headers["X-Content-Type-Options"] == "nosniff"


async def test_keys() -> None:
    async with live(ArithmeticJudge(), keys=("one", "ключ")) as one:
        body = {"problem": PROBLEM, "steps": [GOOD]}
        asked = {
            "none": {},
            "wrong": {"Authorization": "Bearer three"},
            "empty": {"Authorization": "Bearer one one"},
            "broken": {"Authorization": "Basic !!!"},
            # what an ASCII encoder makes of the key
            "question marks": {"Authorization": "Bearer ????"},
        }
        for name, headers in asked.items():
            response = await one.post("/v1/score", body, headers=headers)
            assert response.status_code == 401, name
        utf8: Any = {"Authorization": "Bearer ключ".encode()}
        for headers in ({"Authorization": "Bearer one"}, {"X-API-Key": "one"}, utf8):
            assert (await one.post("/v1/score", body, headers=headers)).status_code == 200
        assert (await one.post("/v1/score", body, auth=("anybody", "one"))).status_code == 200
        assert (await one.http.get("/health")).status_code == 200
        assert (await one.http.get("/metrics")).status_code == 401
        assert (await one.http.get("/openapi.json")).status_code == 401


async def test_another_host_name_is_refused() -> None:
    # A web page can point its own host name at 127.0.0.1, and would then be same-origin with this service.
    async with live(ArithmeticJudge()) as one:
        response = await one.http.get("/v1/models", headers={"Host": "evil.example:80"})
        assert response.status_code == 421
        assert (await one.http.get("/v1/models", headers={"Host": "localhost:1"})).status_code == 200
        assert (await one.http.get("/v1/models", headers={"Host": "[::1]:1"})).status_code == 200
    async with live(ArithmeticJudge(), ServeConfig(host="127.0.0.2")) as one:
        assert (await one.http.get("/v1/models", headers={"Host": "127.0.0.2:1"})).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_an_open_address_needs_a_key_or_a_decision(host: str) -> None:
    with pytest.raises(ServeError, match="GENPRM_API_KEYS"):
        ServeConfig(host=host).check_exposure(())
    ServeConfig(host=host).check_exposure(("key",))
    ServeConfig(host=host, no_auth=True).check_exposure(())
    for local in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        ServeConfig(host=local).check_exposure(())


async def test_models_health_metrics_schema() -> None:
    async with live(ArithmeticJudge()) as one:
        assert (await one.http.get("/v1/models")).json()["data"][0]["id"] == "arithmetic"
        assert (await one.http.get("/health")).json() == {"status": "ok"}
        assert (await one.http.get("/ready")).json() == {"status": "ready"}
        await one.post("/v1/judge", {"problem": PROBLEM, "steps": [GOOD, BAD, "?"]})
        await one.http.get("/nowhere")
        for line, value in {
            'genprm_requests_total{path="/v1/judge",status="200"}': 1,
            'genprm_requests_total{path="other",status="404"}': 1,
            'genprm_steps_total{verdict="Yes"}': 1,
            'genprm_steps_total{verdict="none"}': 1,
            'genprm_tokens_total{kind="generated"}': 5,
            'genprm_tokens_total{kind="cached"}': 2,
            'genprm_code_runs_total{status="ok"}': 2,
            "genprm_judge_seconds_count": 1,
            "genprm_queue ": 0,
            "genprm_chains_in_flight": 0,
        }.items():
            assert await one.metric(line) == value, line
        schema = (await one.http.get("/openapi.json")).json()
        assert {"/v1/judge", "/v1/score", "/v1/critique", "/get_reward", "/rm", "/verify", "/pooling"} <= set(
            schema["paths"]
        )


async def test_metrics_show_what_is_under_way() -> None:
    async with live(SteppedJudge(), ServeConfig(max_in_flight=1), votes=4) as one:
        first, waiting = {"steps": [GOOD, "wait"], "timeout_s": 3}, {"steps": [GOOD], "timeout_s": 1.5}
        asked = [asyncio.create_task(one.post("/v1/judge", {"problem": "first", **first}))]
        while await one.metric("genprm_solutions_in_flight ") < 1:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        asked += [asyncio.create_task(one.post("/v1/judge", {"problem": str(n), **waiting})) for n in range(2)]
        async with asyncio.timeout(5):
            while await one.metric("genprm_queue ") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert await one.metric("genprm_solutions_in_flight ") == 1
        assert await one.metric("genprm_chains_in_flight ") == 4
        assert await one.metric("genprm_connections ") >= 4
        await asyncio.gather(*asked)
        for line, value in {
            "genprm_queue ": 0,
            "genprm_solutions_in_flight ": 0,
            "genprm_chains_in_flight ": 0,
            "genprm_partial_total": 3,
            'genprm_solutions_total{outcome="abandoned"}': 3,
            "genprm_wait_seconds_count": 1,  # two never had their turn
            "genprm_judge_seconds_count": 0,
            'genprm_request_seconds_bucket{le="1.0",path="/v1/judge"}': 0,
            'genprm_request_seconds_count{path="/v1/judge"}': 3,
        }.items():
            assert await one.metric(line) == value, line


async def test_judgements_are_kept_only_where_asked(tmp_path: Path) -> None:
    with open_run(tmp_path / "log", command="serve", config={}) as log:
        async with live(SteppedJudge(), log=log) as one:
            body = {"problem": PROBLEM, "steps": [GOOD]}
            for _ in range(2):
                await one.post("/v1/judge", body)
            await one.post("/v1/judge", {"problem": PROBLEM, "steps": [GOOD, "wait"], "timeout_s": 0.2})
    rows = list(read_rows_of(tmp_path / "log", VerifyRow))
    assert [row.scores for row in rows] == [[0.9]]  # once, and nothing unfinished
    commands = ((["show", "--json"], '"rows": 1'), (["show"], "solutions judged"), (["view"], "report.html"))
    for arguments, text in commands:
        shown = CliRunner().invoke(cli, [*arguments, str(tmp_path / "log")], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, shown.output
        assert text in shown.stdout
    assert PROBLEM in (tmp_path / "log" / "report.html").read_text(encoding="utf-8")


async def test_what_was_accepted_is_finished_when_it_is_told_to_end() -> None:
    judge = SteppedJudge(step_s=0.4)
    async with live(judge, ServeConfig(max_in_flight=1, drain_s=30)) as one:
        accepted = [asyncio.create_task(_score(one, str(n))) for n in range(3)]
        while await one.metric("genprm_queue ") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        drained = asyncio.create_task(one.server.drain())
        await asyncio.sleep(0.05)
        late = await one.post("/v1/score", {"problem": "late", "steps": [GOOD]})
        assert late.status_code == 503
        assert late.json()["error"]["type"] == "stopping"
        assert (await one.http.get("/ready")).status_code == 503
        assert (await one.http.get("/health")).status_code == 200
        assert [await one for one in accepted] == [[0.9]] * 3
        await drained


async def test_a_drain_that_takes_too_long_answers_with_what_there_is() -> None:
    async with live(SteppedJudge(), ServeConfig(drain_s=0.2)) as one:
        body = {"problem": "a", "steps": [GOOD, "wait"]}
        accepted = asyncio.create_task(one.post("/v1/judge", body))
        await asyncio.sleep(0.2)
        await one.server.drain()
        row = (await accepted).json()
        assert row["scores"] == [0.9, None]
        assert row["steps"][1]["reason"] == "not judged: the service is shutting down"


async def _score(one: Live, problem: str) -> list[float | None]:
    return (await one.post("/v1/score", {"problem": problem, "steps": [GOOD]})).json()["scores"]
