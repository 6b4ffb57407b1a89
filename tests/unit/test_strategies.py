from __future__ import annotations

from jobqueue.workers.child.strategies import REORDER, TURN_BACK


def test_round_robin() -> None:
    reorder = REORDER["round_robin"]
    assert reorder(("a", "b", "c"), "a") == ("b", "c", "a")
    assert reorder(("a", "b", "c"), "b") == ("c", "a", "b")
    assert reorder(("a", "b", "c"), "c") == ("a", "b", "c")
    assert reorder(("a",), "a") == ("a",)


def test_round_robin_returns_to_the_queue_of_a_job_given_back() -> None:
    reorder, turn_back = REORDER["round_robin"], TURN_BACK["round_robin"]
    for taken in "abc":
        assert turn_back(reorder(("a", "b", "c"), taken), taken)[0] == taken
    assert turn_back(("c", "a", "b"), "b") == ("b", "c", "a")


def test_random() -> None:
    queues = tuple("abcdefgh")
    orders = {REORDER["random"](queues, "a") for _ in range(20)}
    assert len(orders) > 1
    assert {tuple(sorted(order)) for order in orders} == {queues}


def test_the_default_leaves_the_order_alone() -> None:
    assert "ordered" not in REORDER
