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
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:8311"
AGAIN = frozenset({408, 429, 502, 503, 504})
"""Status codes after which a request is retried."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_CONNECT_S = 10.0

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
        connections: int = 256,
        raise_errors: bool = False,
    ) -> None:
        if timeout_s <= 0 or connections < 1:
            raise ValueError(f"timeout_s and connections must be above 0, not {timeout_s!r} and {connections!r}")
        base_url = base_url or os.environ.get("GENPRM_URL") or DEFAULT_URL
        self.base_urls = [base_url] if isinstance(base_url, str) else list(base_url)
        for url in self.base_urls:
            if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
                raise ValueError(f"a base URL must look like {DEFAULT_URL!r}, not {url!r}")
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
        """Scores solutions side by side, as many at a time as there are connections.

        Args:
            items: made by `item`.

        Returns:
            One per solution, in order; None for those without a result.
        """
        futures = [self._submit("/v1/score", one)[0] for one in items]
        return [_score(future.result()) for future in futures]

    async def ascore_many(self, items: Sequence[Json]) -> list[Score | None]:
        """Asynchronous `score_many`."""
        return [_score(row) for row in await asyncio.gather(*(self.acall("/v1/score", one) for one in items))]

    def call(self, path: str, body: Mapping[str, Any]) -> Json | None:
        """Posts a JSON object and returns the response's JSON object.

        Raises:
            ClientError: there is no result, and `raise_errors` is set.
        """
        return self._guarded(path, body, _Progress(self.timeout_s))

    async def acall(self, path: str, body: Mapping[str, Any]) -> Json | None:
        """Asynchronous `call`. Cancelling it closes the connection, so that the service stops judging."""
        future, call = self._submit(path, body)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            call.cancel()
            raise

    def _submit(self, path: str, body: Mapping[str, Any]) -> tuple[Future[Json | None], _Progress]:
        call = _Progress(self.timeout_s)
        with self._here():
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.connections, thread_name_prefix="genprm-client")
            return self._pool.submit(self._guarded, path, body, call), call

    def _guarded(self, path: str, body: Mapping[str, Any], call: _Progress) -> Json | None:
        self.stats.count("calls")
        try:
            return self._call(path, body, call)
        except ClientError as error:
            self.stats.last_error = str(error)
            failures = self.stats.count("failures")
            if self.raise_errors:
                raise
        if failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a dead service must not fill the log
            last = self.stats.last_error
            logger.warning("genprm: %d of %d calls failed; the last: %s", failures, self.stats.calls, last)
        return None

    def _call(self, path: str, body: Mapping[str, Any], call: _Progress) -> Json:
        try:
            json.dumps(body)
        except (TypeError, ValueError, RecursionError) as error:
            raise ClientError(f"the request cannot be written as JSON: {error}") from None
        if call.left <= 0:
            raise ClientError(f"no answer within {self.timeout_s:g} s: {self.stats.last_error or 'too many calls'}")
        while True:
            url, connection = self._connection()
            reused = cast("socket.socket | None", connection.sock) is not None
            least = 0.0
            try:
                status, headers, data = self._exchange(url, connection, path, body, call)
                if status == 200:
                    return cast("Json", json.loads(data))
                problem = f"{path} answered {status}: {data[:500].decode(errors='replace')}"
                if status not in AGAIN:
                    raise ClientError(problem)
                with contextlib.suppress(ValueError):
                    least = float(headers.get("Retry-After", 0))
            except (OSError, http.client.HTTPException, ValueError) as error:
                if reused and isinstance(error, (ConnectionError, http.client.HTTPException)) and not call.cancelled:
                    continue  # the service may have closed an idle connection: not a failure
                problem = f"{path}: {type(error).__name__}: {error}"
            if not call.pause(least):
                why = "cancelled" if call.cancelled else f"no answer within {self.timeout_s:g} s"
                raise ClientError(f"{why}; the last: {problem}")
            self.stats.last_error = problem
            self.stats.count("retries")

    def _connection(self) -> tuple[str, http.client.HTTPConnection]:
        """The next service, and an idle or a new connection to it."""
        with self._here():
            self._turn = (self._turn + 1) % len(self.base_urls)
            url = self.base_urls[self._turn]
            idle = self._idle.setdefault(url, [])
            return url, idle.pop() if idle else _open(url)

    def _exchange(
        self, url: str, connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any], call: _Progress
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        left = max(0.01, call.left)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            if cast("socket.socket | None", connection.sock) is None:
                connection.timeout = min(left, _CONNECT_S)
                connection.connect()
            wire = cast("socket.socket", connection.sock)
            wire.settimeout(left)
            call.watch(wire)
            connection.request("POST", urlsplit(url).path.rstrip("/") + path, _timed(body, left).encode(), headers)
            response = connection.getresponse()
            data = response.read()
            call.watch(None)
        except BaseException:
            connection.close()
            raise
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
        self._close_idle()

    def _close_idle(self) -> None:
        for idle in self.__dict__.get("_idle", {}).values():
            while idle:
                idle.pop().close()

    def __del__(self) -> None:
        self._close_idle()  # without waiting for calls in progress

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Progress:
    """A call in progress: its deadline, its pauses between tries, and how another thread cancels it."""

    def __init__(self, timeout_s: float) -> None:
        self._until = time.monotonic() + timeout_s
        self._next_s = _FIRST_PAUSE_S
        self._cancelled = threading.Event()
        self._socket: socket.socket | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._until - time.monotonic()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def pause(self, least: float = 0.0) -> bool:
        """Waits before the next try. False if it was cancelled, or, at once, if the deadline comes first."""
        wait = max(least, self._next_s * random.uniform(0.5, 1.0))
        self._next_s = min(_LONGEST_PAUSE_S, 2 * self._next_s)
        return self.left > wait and not self._cancelled.wait(wait)

    def watch(self, connection: socket.socket | None) -> None:
        """Names the connection that `cancel` shuts down."""
        self._socket = connection
        if self.cancelled and connection is not None:
            raise ClientError("cancelled")

    def cancel(self) -> None:
        self._cancelled.set()
        watched = self._socket
        if watched is not None:
            with contextlib.suppress(OSError):  # already closed
                watched.shutdown(socket.SHUT_RDWR)


def item(problem: str, solution: str | Sequence[str], **options: Any) -> Json:
    """One solution in the service's format: see `Client.score`. Options that are None are omitted."""
    what = {"solution": solution} if isinstance(solution, str) else {"steps": list(solution)}
    return {"problem": problem, **what, **{name: value for name, value in options.items() if value is not None}}


def _open(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port)


def _timed(body: Mapping[str, Any], left: float) -> str:
    """The body of a request, with the deadline that the service gets: slightly earlier, so that its answer arrives."""
    own, given = left - min(1.0, left / 10), body.get("timeout_s")
    return json.dumps({**body, "timeout_s": own if given is None else min(float(given), own)})


def _score(row: Json | None) -> Score | None:
    if row is None or "scores" not in row:
        return None
    return Score(**{name: row.get(name) for name in Score.__slots__})  # pyright: ignore[reportArgumentType]
