"""The sandbox: lanes, started and stopped with the load, and their sessions."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from .guest.frames import MAX_CODE
from .lane import Channel, Hello, Lane, LaneBroken, LaneGone
from .limits import Limits
from .results import Result, SandboxError, Status

RUNS_BEFORE_RENEWAL = 20_000
"""After this many snippets a guest gets no new sessions, and ends with its last one."""
_IDLE_S = 120.0
"""A lane without sessions for this long is closed, except the last one."""
_HOUSEKEEPING_S = 15.0
_GIVEN_UP_MOST = 3
"""A session whose state the guest discards this often for one snippet is ended as `killed`."""
_HOLDS_TOO_MUCH = "the session holds too much between its snippets: its state was discarded repeatedly"


class Backend(Protocol):
    """A way to start guests."""

    name: str
    note: str

    @property
    def lanes(self) -> int | None:
        """How many lanes it can make use of; None for as many as this machine has cores."""
        ...

    async def launch(self) -> Channel:
        """Starts a guest. Raises LaneBroken."""
        ...

    async def close(self) -> None:
        """Releases what all guests share."""
        ...


class Session:
    """One fresh namespace for one chain. Names persist between snippets; files, threads and processes do not.

    A snippet that ends with `ok` or `exception` keeps its effects. Any other ending undoes them: the next snippet finds
    the state from before. `sandbox.Sandbox.session` makes these.
    """

    def __init__(self, box: Sandbox, key: int) -> None:
        self._box = box
        self._key = key
        self._lane: Lane | None = None
        self._kept: list[tuple[str, Status]] = []
        self._given_up = 0
        """How often in a row the guest discarded this session's state because it held too much."""
        self._turn = asyncio.Lock()
        self._closed = False

    async def run(self, code: str) -> Result:
        """Run Python code as the next snippet of this session.

        Args:
            code: at most one MiB of UTF-8.

        Returns:
            Its result. Code that fails, hangs or kills its process is a result, not an error.

        Raises:
            SandboxError: the sandbox broke twice.
        """
        if self._closed:
            raise SandboxError("this session is closed")
        if len(code) > MAX_CODE or len(code.encode("utf-8", "surrogatepass")) > MAX_CODE:
            await asyncio.sleep(0)  # whoever calls this in a loop lets others run, too
            return Result(Status.INVALID_CODE, "", f"longer than {MAX_CODE} bytes", 0.0, 0)
        async with self._turn:
            result = await self._attempt(code)
            if result.status in (Status.OK, Status.EXCEPTION):
                self._kept.append((code, result.status))
            return result

    async def close(self) -> None:
        """End the session; its state is gone."""
        if not self._closed:
            self._closed = True
            if self._lane is not None:
                await self._lane.forget(self._key)

    async def _attempt(self, code: str) -> Result:
        reasons: list[str] = []
        self._given_up = 0
        while len(reasons) < 2 and self._given_up < _GIVEN_UP_MOST:
            try:
                lane = await self._box.lane_for(self._lane)
                if lane is not self._lane and (failure := await self._move(lane)) is not None:
                    return failure
                result = await lane.run(self._key, code, resumes=bool(self._kept))
            except LaneGone:
                self._lane = None
                continue
            except LaneBroken as broken:
                self._lane = None
                self._given_up = 0  # from here on, not caused by this session
                reasons.append(str(broken))
                continue
            if result is not None:
                return result
            await self._give_up(lane)
        if self._given_up:
            return _killed(_HOLDS_TOO_MUCH)
        raise SandboxError(f"the sandbox broke twice: {'; then '.join(reasons)}")

    async def _give_up(self, lane: Lane) -> None:
        """The guest discarded the state of this session, which held more than any other."""
        await lane.forget(self._key)
        self._lane = None
        self._given_up += 1

    async def _move(self, lane: Lane) -> Result | None:
        """Rebuilds this session's state on a lane by running its snippets again.

        Returns:
            None, or the result of a session that prevents its own rebuilding: code that holds too much and behaves
                differently each time must still be judged.
        """
        for index, (code, status) in enumerate(self._kept):
            result = await lane.run(self._key, code, resumes=index > 0)
            if result is None:
                await self._give_up(lane)
                return _killed(_HOLDS_TOO_MUCH)
            if result.status is not status:
                await lane.forget(self._key)
                what = f"snippet {index} ended with {result.status.value!r}, not {status.value!r} as before"
                if self._given_up:
                    return _killed(f"the session's state was discarded and could not be rebuilt: {what}")
                raise SandboxError(f"a session's state was lost with its guest and could not be rebuilt: {what}")
        self._lane = lane
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _worn(lane: Lane) -> bool:
    """Whether a lane gets no new sessions."""
    return lane.leaving or lane.runs >= RUNS_BEFORE_RENEWAL


def _killed(reason: str) -> Result:
    return Result(Status.KILLED, "", reason, 0.0, 0)


class Sandbox:
    """Runs untrusted Python. Create it with `open_sandbox`; use it with `async with`, or `start` and `close`."""

    def __init__(
        self, choose: Callable[[], Awaitable[tuple[Backend, Lane]]], limits: Limits, lanes: int | None
    ) -> None:
        self.limits = limits
        self.lanes = lanes or len(os.sched_getaffinity(0))
        """Most guests, and so most concurrent snippets. By default what the backend can use."""
        self._asked_lanes = lanes
        self._choose = choose
        self._backend: Backend | None = None
        self.guests_started = 0
        """Guests started since opening; more than lanes if guests were lost or replaced."""
        self.guests_broken = 0
        """Guests that ended by themselves or were given up, but not those replaced after long use."""
        self.hello: Hello | None = None
        """What the latest guest reported of itself."""
        self._lanes: list[Lane] = []
        self._starting: set[asyncio.Task[Lane]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._keys = itertools.count()
        self._housekeeper: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def backend(self) -> str:
        """Name of the backend in use: `docker`, `podman`, `bubblewrap` or `remote`."""
        return self._chosen.name

    @property
    def note(self) -> str:
        """Why this backend was chosen, as a sentence."""
        return self._chosen.note

    @property
    def _chosen(self) -> Backend:
        if self._backend is None:
            raise SandboxError("this sandbox is not started: use it with `async with`")
        return self._backend

    @property
    def isolation(self) -> str:
        """What isolates sessions: `users` or `namespaces`."""
        return self.hello.isolation if self.hello else "not started"

    async def start(self) -> Self:
        """Chooses the backend and waits until its first lane is ready. May run as a task while a model loads.

        Raises:
            SandboxError: no backend can be used; the message says what to do.
        """
        if self._closed:
            raise SandboxError("this sandbox is closed")
        if self._backend is None:
            self._backend, lane = await self._choose()
            if self._asked_lanes is None and self._backend.lanes is not None:
                self.lanes = self._backend.lanes
            self._adopt(lane)
            self._housekeeper = asyncio.create_task(self._keep_house())
        return self

    def session(self) -> Session:
        """Opens a new session. It costs nothing before its first snippet; any number may be open."""
        return Session(self, next(self._keys))

    async def stats(self) -> list[dict[str, int]]:
        """Counts for each guest: processes, descriptors, memory in KiB."""
        return [await lane.stats() for lane in self._lanes if not lane.gone]

    async def grow(self, lanes: int | None = None) -> None:
        """Starts lanes now, up to `lanes` (all by default), instead of on demand."""
        while len(self._lanes) + len(self._starting) < min(self.lanes, lanes or self.lanes):
            self._begin_growing()
        await asyncio.gather(*self._starting)

    async def close(self) -> None:
        """Ends everything and waits until it is gone."""
        self._closed = True
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._housekeeper
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in self._lanes), return_exceptions=True)
        self._lanes.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._backend is not None:
            await self._backend.close()

    async def lane_for(self, current: Lane | None) -> Lane:
        """The session's lane, or the least loaded one for a session without a lane."""
        if self._backend is None or self._closed:
            raise SandboxError("this sandbox is not open: use it inside `async with`")
        if self._housekeeper is not None and self._housekeeper.get_loop() is not asyncio.get_running_loop():
            raise SandboxError(
                "this sandbox belongs to another event loop: open it in the one that uses it, or use genprm.Judge, "
                "which has its own"
            )
        if current is not None and not current.gone:
            return current
        self._drop_broken()
        usable = [lane for lane in self._lanes if not _worn(lane)]
        if not usable:
            if not self._starting:
                self._begin_growing()
            done, _ = await asyncio.wait(self._starting, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        best = min(usable, key=lambda lane: (lane.load, len(lane.sessions)))
        if best.load and len(usable) + len(self._starting) < self.lanes:
            self._begin_growing()
        return best

    async def _grow(self) -> Lane:
        assert self._backend is not None
        lane = await Lane.start(await self._backend.launch(), self.limits)
        if self._closed:
            await lane.close()
            raise LaneBroken("the sandbox was closed")
        self._adopt(lane)
        return lane

    def _adopt(self, lane: Lane) -> None:
        self._lanes.append(lane)
        self.hello = lane.hello
        self.guests_started += 1

    def _begin_growing(self) -> None:
        task = asyncio.create_task(self._grow())
        self._starting.add(task)

        def done(finished: asyncio.Task[Lane]) -> None:
            self._starting.discard(finished)
            if not finished.cancelled():
                finished.exception()  # reported to callers that need a lane

        task.add_done_callback(done)

    def _drop_broken(self) -> None:
        for lane in [lane for lane in self._lanes if lane.gone]:
            self.guests_broken += 1
            self._end(lane)

    def _end(self, lane: Lane) -> None:
        self._lanes.remove(lane)
        task = asyncio.create_task(lane.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _keep_house(self) -> None:
        """Closes worn and idle lanes."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self._drop_broken()
            for lane in list(self._lanes):
                idle = len(self._lanes) > 1 and time.monotonic() - lane.idle_since > _IDLE_S
                if not lane.sessions and not lane.load and (_worn(lane) or idle):
                    self._end(lane)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
