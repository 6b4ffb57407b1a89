from __future__ import annotations

from workers.strategies import REORDER


def test_round_robin() -> None:
    reorder = REORDER["round_robin"]
    assert reorder(("a", "b", "c"), "a") == ("b", "c", "a")
    assert reorder(("a", "b", "c"), "b") == ("c", "a", "b")
    assert reorder(("a", "b", "c"), "c") == ("a", "b", "c")
    assert reorder(("a",), "a") == ("a",)


def test_random() -> None:
    queues = tuple("abcdefgh")
    orders = {REORDER["random"](queues, "a") for _ in range(20)}
    assert len(orders) > 1
    assert {tuple(sorted(order)) for order in orders} == {queues}


def test_the_default_leaves_the_order_alone() -> None:
    assert "ordered" not in REORDER
