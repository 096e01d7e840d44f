"""Which server gets a request."""

from __future__ import annotations

from genprm.engines import routing
from genprm.engines.routing import ASIDE_S, Router, Server


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def two() -> tuple[Router, Server, Server, Clock]:
    a, b, clock = Server("a"), Server("b"), Clock()
    return Router([a, b], clock), a, b, clock


def test_a_new_chain_goes_where_the_fewest_requests_are_and_stays() -> None:
    router, a, b, _ = two()
    a.in_flight = 3
    assert router.pick("one") is b
    b.in_flight = 9
    assert router.pick("one") is b
    assert router.pick("two") is a
    assert router.pick(None) is a


def test_a_failed_server_is_avoided_for_a_while_and_its_chains_move() -> None:
    router, a, b, clock = two()
    assert router.pick("one") is a
    router.put_aside(a)
    assert router.pick("one", tried=[a]) is b
    b.in_flight = 100
    assert router.pick("new") is b
    clock.now = ASIDE_S + 1
    # One request finds out whether it is back; until it has, the others go elsewhere.
    assert router.pick("newer") is a
    a.in_flight = 1
    assert router.pick("newest") is b
    router.restore(a)
    assert router.pick("last") is a
    # Its prefix is on b by now.
    assert router.pick("one") is b


def test_a_server_put_aside_serves_when_nothing_else_is_left() -> None:
    router, a, b, clock = two()
    router.put_aside(a)
    clock.now = 1.0
    router.put_aside(b)
    assert router.pick("one") is a
    assert router.pick("one", tried=[a]) is b
    assert router.pick("one", tried=[a, b]) is None


def test_forgotten_chains_do_not_pile_up(monkeypatch) -> None:
    monkeypatch.setattr(routing, "REMEMBERED_CHAINS", 2)
    router, a, b, _ = two()
    for chain in ("one", "two", "one", "three"):
        assert router.pick(chain) is a
    a.in_flight = 5
    assert router.pick("one") is a
    assert router.pick("two") is b
