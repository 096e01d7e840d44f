"""A client of `genprm serve` that needs only the standard library: import it, or copy this file.

    client = Client("http://127.0.0.1:8311")
    score = client.score(problem, solution, answer="72")     # or: await client.ascore(...)
    score.reward                                             # a float, or None

Made for training loops: by default, calls do not raise. A result that is missing at the deadline is None, and is
counted in `client.stats`. Requests are retried with exponential backoff until the deadline; the service judges
concurrent equal requests only once, so a retry costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:8311"
AGAIN = frozenset({408, 429, 502, 503, 504})
"""Status codes after which a request is retried."""
_PASSING = frozenset({"engine", "sandbox", "stopping", "busy"})
"""Errors of one solution in a batch after which it is retried."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_CONNECT_S = 10.0
_CHUNK = 32
"""Most solutions in one request of a batch."""

T = TypeVar("T")
Json = dict[str, Any]


class ClientError(RuntimeError):
    """The service refused a request, or could not be reached before the deadline."""


@dataclass(frozen=True, slots=True)
class Score:
    """The service's result for one solution."""

    scores: list[float | None]
    """One per step, in [0, 1]; None without a verdict."""
    spans: list[list[int]] | None
    """First character and end of each step in the solution; None when steps were sent."""
    first_error: int | None
    """0-based index of the first wrong step, -1 for none, None when unknown."""
    solution: float | None
    """The score of the solution as a whole, from judges that give one."""
    correct: bool | None
    """Whether the answer is right; None when unknown."""
    violation: str | None
    """The format rule that the solution violates."""
    reward: float | None
    """The service's default reward: gated by the answer, minimum form."""
    complete: bool
    """Whether all steps were judged before the deadline."""
    reason: str | None
    """Why something is missing."""


@dataclass(slots=True)
class Stats:
    """Counts since the client was created."""

    calls: int = 0
    """Calls made."""
    retries: int = 0
    failures: int = 0
    """Calls without a result."""
    last_error: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, name: str) -> int:
        """Increments a count and returns it."""
        with self._lock:
            value: int = getattr(self, name) + 1
            setattr(self, name, value)
            return value


class Client:
    """Calls `genprm serve`. Safe in threads and event loops, after a fork, and to pickle.

    Args:
        base_url: the service, or several with the same model; a retry goes to the next one. By default the
            environment variable `GENPRM_URL`, else a service on this machine.
        api_key: sent as a bearer token. By default the environment variable `GENPRM_API_KEY`.
        timeout_s: for one call, including retries and waiting. The service is told this deadline.
        connections: most concurrent requests; further ones wait.
        raise_errors: raise `ClientError` instead of returning None.
    """

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        connections: int = 64,
        raise_errors: bool = False,
    ) -> None:
        if timeout_s <= 0 or connections < 1:
            raise ValueError(f"timeout_s and connections must be above 0, not {timeout_s!r} and {connections!r}")
        base_url = base_url or os.environ.get("GENPRM_URL") or DEFAULT_URL
        self.base_urls = [base_url] if isinstance(base_url, str) else list(base_url)
        for url in self.base_urls:
            if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
                raise ValueError(f"a base URL must look like {DEFAULT_URL!r}, not {url!r}")
        if not self.base_urls:
            raise ValueError("there is no base URL")
        self.api_key = os.environ.get("GENPRM_API_KEY") if api_key is None else api_key
        self.timeout_s = timeout_s
        self.connections = connections
        self.raise_errors = raise_errors
        self.stats = Stats()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._turn = random.randrange(len(self.base_urls))

    def __getstate__(self) -> Json:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_") and name != "stats"}

    def __setstate__(self, state: Json) -> None:
        self.__dict__.update(state)
        self.stats = Stats()
        self._reset()

    def score(self, problem: str, solution: str | Sequence[str], **options: Any) -> Score | None:
        """Scores one solution.

        Args:
            problem: the question.
            solution: a text, or its steps.
            **options: `answer` (the reference answer, for the service to compare) or `correct` (if known), `id`.

        Returns:
            None if there is no result.
        """
        return _score(self.call("/v1/score", item(problem, solution, **options)))

    async def ascore(self, problem: str, solution: str | Sequence[str], **options: Any) -> Score | None:
        """Asynchronous `score`. Cancelling it stops the judgement."""
        return _score(await self.acall("/v1/score", item(problem, solution, **options)))

    def judge(self, problem: str, solution: str | Sequence[str], **options: Any) -> Json | None:
        """Judges one solution: a row with every chain's rationale, code and output, as `genprm verify` writes it."""
        return self.call("/v1/judge", item(problem, solution, **options))

    async def ajudge(self, problem: str, solution: str | Sequence[str], **options: Any) -> Json | None:
        """Asynchronous `judge`."""
        return await self.acall("/v1/judge", item(problem, solution, **options))

    def critique(self, problem: str, solution: str | Sequence[str], **options: Any) -> Json | None:
        """Says what is wrong with a solution: `message` is the user turn to append, None if nothing is wrong."""
        return self.call("/v1/critique", item(problem, solution, **options))

    async def acritique(self, problem: str, solution: str | Sequence[str], **options: Any) -> Json | None:
        """Asynchronous `critique`."""
        return await self.acall("/v1/critique", item(problem, solution, **options))

    def score_many(self, items: Sequence[Json]) -> list[Score | None]:
        """Scores a batch, in one request per connection.

        Args:
            items: made by `item`.

        Returns:
            One per solution, in order; None for those without a result.
        """
        chunks = self._chunks(items)
        calls = [self._submit_rows(chunk, _Abort()) for chunk in chunks]
        return [one for call, chunk in zip(calls, chunks, strict=True) for one in _scores(call.result(), len(chunk))]

    async def ascore_many(self, items: Sequence[Json]) -> list[Score | None]:
        """Asynchronous `score_many`."""
        chunks = self._chunks(items)
        aborts = [_Abort() for _ in chunks]
        calls = [self._submit_rows(chunk, abort) for chunk, abort in zip(chunks, aborts, strict=True)]
        found = await asyncio.gather(*(_awaited(call, abort) for call, abort in zip(calls, aborts, strict=True)))
        return [one for rows, chunk in zip(found, chunks, strict=True) for one in _scores(rows, len(chunk))]

    def _chunks(self, items: Sequence[Json]) -> list[list[Json]]:
        size = max(1, min(_CHUNK, -(-len(items) // self.connections)))
        return [list(items[start : start + size]) for start in range(0, len(items), size)]

    def call(self, path: str, body: Mapping[str, Any]) -> Json | None:
        """Posts a JSON object and returns the response's JSON object.

        Raises:
            ClientError: there is no result, and `raise_errors` is set.
        """
        return self._guarded(lambda: self._call(path, body, time.monotonic() + self.timeout_s, _Abort()))

    async def acall(self, path: str, body: Mapping[str, Any]) -> Json | None:
        """Asynchronous `call`. Cancelling it closes the connection, so that the service stops judging."""
        abort, until = _Abort(), time.monotonic() + self.timeout_s
        return await _awaited(self._submit(lambda: self._call(path, body, until, abort)), abort)

    def _submit_rows(self, items: list[Json], abort: _Abort) -> Future[list[Json] | None]:
        until = time.monotonic() + self.timeout_s
        return self._submit(lambda: self._rows(items, until, abort))

    def _submit(self, work: Callable[[], T]) -> Future[T | None]:
        with self._here():
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.connections, thread_name_prefix="genprm-client")
            return self._pool.submit(self._guarded, work)

    def _guarded(self, work: Callable[[], T]) -> T | None:
        self.stats.count("calls")
        try:
            return work()
        except ClientError as error:
            self._failed(error)
            return None

    def _failed(self, error: ClientError) -> None:
        self.stats.last_error = str(error)
        failures = self.stats.count("failures")
        if self.raise_errors:
            raise error
        if failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a dead service must not fill the log
            logger.warning("genprm: %d of %d calls failed; the last: %s", failures, self.stats.calls, error)

    def _rows(self, items: list[Json], until: float, abort: _Abort) -> list[Json]:
        """One row per solution. Those that failed for a passing reason are asked for again until the deadline."""
        rows: list[Json] = [{}] * len(items)
        todo, pause = list(range(len(items))), _FIRST_PAUSE_S
        while True:
            answer = self._call("/v1/score", {"items": [items[index] for index in todo]}, until, abort)
            found: list[Json] = answer.get("rows", [])
            if len(found) != len(todo):
                raise ClientError(f"/v1/score answered {len(found)} rows for {len(todo)} solutions")
            for index, row in zip(todo, found, strict=True):
                rows[index] = row
            todo = [index for index in todo if rows[index].get("error", {}).get("type") in _PASSING]
            wait = pause * random.uniform(0.5, 1.0)
            if not todo or abort.asked or time.monotonic() + wait >= until:
                break
            self.stats.count("retries")
            abort.wait(wait)
            pause = min(_LONGEST_PAUSE_S, 2 * pause)
        for row in rows:
            if "error" in row:
                error = ClientError(f"/v1/score: {row['error'].get('message')}")
                if self.raise_errors:
                    raise error
                self._failed(error)
        return rows

    def _call(self, path: str, body: Mapping[str, Any], until: float, abort: _Abort) -> Json:
        pause = _FIRST_PAUSE_S
        try:
            json.dumps(body)
        except (TypeError, ValueError, RecursionError) as error:
            raise ClientError(f"the request cannot be written as JSON: {error}") from None
        while True:
            if time.monotonic() >= until:
                raise ClientError(f"no answer within {self.timeout_s:g} s: {self.stats.last_error or 'too many calls'}")
            wait = pause * random.uniform(0.5, 1.0)
            try:
                status, headers, data = self._send(path, body, until, abort)
                if status == 200:
                    return cast("Json", json.loads(data))
                problem = f"{path} answered {status}: {data[:500].decode(errors='replace')}"
                if status not in AGAIN:
                    raise ClientError(problem)
                wait = max(wait, _number(headers.get("Retry-After")))
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = f"{path}: {type(error).__name__}: {error}"
            if abort.asked:
                raise ClientError("cancelled")
            self.stats.last_error = problem
            if time.monotonic() + wait >= until:
                raise ClientError(f"no answer within {self.timeout_s:g} s; the last: {problem}")
            self.stats.count("retries")
            abort.wait(wait)
            pause = min(_LONGEST_PAUSE_S, 2 * pause)

    def _send(
        self, path: str, body: Mapping[str, Any], until: float, abort: _Abort
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with self._here():
            self._turn = (self._turn + 1) % len(self.base_urls)
            url = self.base_urls[self._turn]
            idle = self._idle.setdefault(url, [])
            connection = idle.pop() if idle else None
        reused = connection is not None
        connection = connection or _open(url, _CONNECT_S)
        try:
            while True:
                left = max(0.01, until - time.monotonic())
                try:
                    return self._exchange(url, connection, path, _timed(body, left), left, abort)
                except (ConnectionError, http.client.HTTPException):
                    # The service may have closed an idle connection: not a failure.
                    if not reused or abort.asked:
                        raise
                    connection.close()
                    reused, connection = False, _open(url, _CONNECT_S)
        except BaseException:
            connection.close()
            raise

    def _exchange(
        self, url: str, connection: http.client.HTTPConnection, path: str, body: str, timeout: float, abort: _Abort
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        if cast("socket.socket | None", connection.sock) is None:
            connection.timeout = min(timeout, _CONNECT_S)
            connection.connect()
        wire = cast("socket.socket", connection.sock)
        wire.settimeout(timeout)
        abort.watch(wire)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        connection.request("POST", urlsplit(url).path.rstrip("/") + path, body.encode(), headers)
        response = connection.getresponse()
        data = response.read()
        abort.watch(None)
        if response.will_close:
            connection.close()
        else:
            with self._here():
                self._idle.setdefault(url, []).append(connection)
        return response.status, response.headers, data

    def _here(self) -> threading.Lock:
        """The lock. In a forked child, the parent's connections are dropped first."""
        if self._pid != os.getpid():
            self._reset()
        return self._lock

    def close(self) -> None:
        """Closes idle connections, and waits for calls in progress."""
        with self._here():
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        with self._here():
            for connection in (one for idle in self._idle.values() for one in idle):
                connection.close()
            self._idle.clear()

    def __del__(self) -> None:
        # Closes sockets of a client that was not closed, without waiting for calls in progress.
        for connection in (one for idle in self.__dict__.get("_idle", {}).values() for one in idle):
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Abort:
    """Aborts a call from another thread: ends its pause, and shuts down its socket."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._socket: socket.socket | None = None

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def watch(self, connection: socket.socket | None) -> None:
        self._socket = connection
        if self.asked and connection is not None:
            raise ClientError("cancelled")

    def wait(self, seconds: float) -> None:
        self._event.wait(seconds)

    def __call__(self) -> None:
        self._event.set()
        watched = self._socket
        if watched is not None:
            with contextlib.suppress(OSError):  # already closed
                watched.shutdown(socket.SHUT_RDWR)


def item(problem: str, solution: str | Sequence[str], **options: Any) -> Json:
    """One solution in the service's format: see `Client.score`. Options that are None are omitted."""
    what = {"solution": solution} if isinstance(solution, str) else {"steps": list(solution)}
    return {"problem": problem, **what, **{name: value for name, value in options.items() if value is not None}}


def _open(url: str, timeout: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout)


def _timed(body: Mapping[str, Any], left: float) -> str:
    """The body of a request, with the deadline that the service gets: slightly earlier, so that its answer arrives."""
    own, given = left - min(1.0, left / 10), body.get("timeout_s")
    return json.dumps({**body, "timeout_s": own if given is None else min(float(given), own)})


async def _awaited(call: Future[T], abort: _Abort) -> T:
    """Awaits a call; cancelling closes its connection."""
    try:
        return await asyncio.wrap_future(call)
    except asyncio.CancelledError:
        abort()
        raise


def _score(row: Json | None) -> Score | None:
    if row is None or "scores" not in row:
        return None
    return Score(**{name: row.get(name) for name in Score.__slots__})  # pyright: ignore[reportArgumentType]


def _scores(rows: list[Json] | None, count: int) -> list[Score | None]:
    return [None] * count if rows is None else [_score(row) for row in rows]


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
