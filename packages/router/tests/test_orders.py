"""What was ordered of members holds until it is undone, or they stay away."""

from __future__ import annotations

from paceline.router.member import Role
from paceline.router.orders import Orders

V = (Role.VERIFIER, "v")
D = (Role.DRAFTER, "v")


def test_orders_hold_by_role_and_id_until_undone() -> None:
    orders = Orders()
    orders.drain(V, False, 0.0)
    orders.withdraw(D, False, 0.0)
    assert (orders.drained(V), orders.drained(D)) == (True, False)
    assert (orders.withdrawn(V), orders.withdrawn(D)) == (False, True)
    assert orders.all_withdrawn() == [D]
    for order in (orders.drain, orders.withdraw):
        for key in (V, D):
            order(key, True, 1.0)
    assert not orders.drained(V)
    assert orders.all_withdrawn() == []


def test_they_are_forgotten_when_the_member_stays_away() -> None:
    orders = Orders(forgotten_s=10.0)
    for order in (orders.drain, orders.withdraw):
        for key in (V, D):
            order(key, False, 0.0)
    orders.heard([V, (Role.TRAINER, "t")], 5.0)
    orders.sweep(9.9)
    assert orders.drained(D)
    orders.sweep(10.0)
    assert (orders.drained(V), orders.drained(D)) == (True, False)
    assert orders.all_withdrawn() == [V]
    orders.sweep(15.0)
    assert not orders.drained(V)
    assert orders.all_withdrawn() == []
