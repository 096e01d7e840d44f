from __future__ import annotations

import asyncio

import pytest

from genprm.engines.admission import Admission

CONTEXT = 10_000


async def hold(admission: Admission, characters: int, chains: int, let_go: asyncio.Event, tokens: int = 0) -> None:
    async with admission.place(characters, chains) as place:
        await let_go.wait()
        place.tokens = tokens


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_chains_wait_until_those_before_them_have_made_room() -> None:
    admission = Admission(10_000, CONTEXT)
    each = admission.estimate(500, 2)
    assert each == 4_000  # the prior: four tokens per character
    gates = [asyncio.Event() for _ in range(4)]
    tasks = [asyncio.create_task(hold(admission, 500, 2, gate, 4_000)) for gate in gates]
    await settle()
    gates[2].set()
    gates[3].set()
    await settle()
    assert not tasks[2].done()  # two hold 8,000 of 10,000 tokens
    gates[0].set()
    await settle()
    assert [task.done() for task in tasks] == [True, False, True, True]
    gates[1].set()
    await asyncio.gather(*tasks)


async def test_the_estimate_follows_what_chains_came_to() -> None:
    admission = Admission(1 << 30, CONTEXT)
    done = asyncio.Event()
    done.set()
    for _ in range(200):
        await hold(admission, 1_000, 2, done, 2 * 500)
    assert admission.estimate(1_000, 2) == pytest.approx(1_000, rel=0.05)
    # And forgets, when solutions change.
    for _ in range(200):
        await hold(admission, 1_000, 1, done, 3_000)
    assert admission.estimate(1_000, 1) == pytest.approx(3_000, rel=0.2)
    assert admission.estimate(1_000_000, 3) == 3 * CONTEXT  # no chain outgrows the context


async def test_the_first_in_line_is_never_overtaken() -> None:
    admission = Admission(10_000, CONTEXT)
    first, later = asyncio.Event(), asyncio.Event()
    small = asyncio.create_task(hold(admission, 1_000, 1, first))
    await settle()
    large = asyncio.create_task(hold(admission, 2_500, 1, later))  # needs all of it
    await settle()
    tiny = asyncio.create_task(hold(admission, 10, 1, later))  # would fit beside the first
    later.set()
    await settle()
    assert not large.done()
    assert not tiny.done()
    first.set()
    await asyncio.gather(small, large, tiny)


async def test_a_solution_larger_than_the_cache_goes_alone() -> None:
    admission = Admission(1_000, CONTEXT)
    gate = asyncio.Event()
    large = asyncio.create_task(hold(admission, 2_000, 4, gate))
    await settle()
    other = asyncio.create_task(hold(admission, 1, 1, gate))
    await settle()
    gate.set()
    await asyncio.wait_for(asyncio.gather(large, other), 5)


@pytest.mark.parametrize("when", ["waiting", "as room is made", "admitted"])
async def test_what_is_cancelled_in_line_leaves_no_trace(when: str) -> None:
    admission = Admission(10_000, CONTEXT)
    gate = asyncio.Event()
    async with admission.place(2_500, 1):
        waiting, behind = (asyncio.create_task(hold(admission, 2_500, 1, gate)) for _ in range(2))
        await settle()
        if when != "admitted":
            waiting.cancel()
        if when == "waiting":
            await settle()
    # If it was admitted by now, it has not run yet.
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await asyncio.wait_for(behind, 5)


async def _fail(admission: Admission) -> None:
    async with admission.place(2_500, 1) as place:
        place.tokens = 1
        raise RuntimeError


async def test_a_failed_solution_gives_its_room_back_and_teaches_nothing() -> None:
    admission = Admission(10_000, CONTEXT)
    before = admission.estimate(1_000, 1)
    with pytest.raises(RuntimeError):
        await _fail(admission)
    assert admission.estimate(1_000, 1) == before
    done = asyncio.Event()
    done.set()
    await asyncio.wait_for(hold(admission, 2_500, 1, done), 5)


async def test_without_a_known_cache_all_are_admitted() -> None:
    admission = Admission(None, CONTEXT)
    gate = asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, 1_000_000, 8, gate)) for _ in range(50)]
    gate.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)


async def test_those_who_wait_are_estimated_when_it_is_their_turn() -> None:
    admission = Admission(10_000, CONTEXT)
    gates = [asyncio.Event() for _ in range(4)]
    # The first is expected to need 8,000 tokens, so the others wait; it turns out to be short.
    tasks = [asyncio.create_task(hold(admission, 2_000, 1, gate, 200)) for gate in gates]
    await settle()
    for _ in range(3):
        admission._learn(30_000, 3_000)  # what others have shown meanwhile
    gates[0].set()
    await settle()
    # By now each is expected to have a few hundred tokens: all fit, and what they hold is that.
    assert admission._held == 3 * admission.estimate(2_000, 1)
    for gate in gates:
        gate.set()
    await asyncio.gather(*tasks)
    assert admission._held == 0


async def test_who_is_cancelled_when_admitted_gives_back_what_it_was_admitted_with() -> None:
    admission = Admission(10_000, CONTEXT)
    gate, never = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(hold(admission, 2_000, 1, gate, 200))
    second = asyncio.create_task(hold(admission, 2_000, 1, never))
    await settle()
    gate.set()
    await first  # the second is admitted now, and has not run since
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert admission._held == 0
