"""Which threads have answered a roll call."""

from __future__ import annotations

import threading

from jobqueue.workers.child.roll_call import RollCall


def test_threads_that_have_answered_since_a_round_began() -> None:
    roll_call, me = RollCall(), threading.get_ident()
    number = roll_call.begin()
    assert not roll_call.has_answered(me, number)
    assert not roll_call.has_answered(None, number)
    roll_call.answer()
    assert roll_call.has_answered(me, number)
    assert not roll_call.has_answered(me, roll_call.begin())
    assert roll_call.has_answered(me, number)
