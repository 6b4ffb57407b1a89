"""The protocol as a state machine: any order of requests, deaths, rescues and lost replies, on fakeredis and a server.

After every step the whole store is compared with a model in plain Python (model.py, model_owners.py, view.py), and the
promises are checked: each job in exactly one place, one outcome per attempt, nothing left behind. docs/states.md has
the picture.

    pytest tests/properties                           the same examples each time
    JOBQ_EXAMPLES=5000 pytest tests/properties        new ones; for `make soak`
"""

from __future__ import annotations

import logging
import os
from functools import partial

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from rules_of_children import Children
from rules_of_clients import Clients
from rules_of_deaths import Deaths

from jobqueue.protocol.wire import Wire

EXAMPLES = int(os.environ.get("JOBQ_EXAMPLES") or 0)
PROFILE = settings(
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],  # no explaining: it traces every line
    suppress_health_check=list(HealthCheck),
)


class Everything(Clients, Children, Deaths):
    """The machine with all rules."""


@pytest.fixture(params=["fakeredis", "server"])
def backend(request: pytest.FixtureRequest) -> redis.Redis:
    return fakeredis.FakeRedis() if request.param == "fakeredis" else request.getfixturevalue("store")


@pytest.mark.timeout(0 if EXAMPLES else 400)  # a failing example is first reduced, which takes a while
def test_any_order_of_events_keeps_the_promise(backend: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("jobqueue.workers.rq_finish.finish", "rq.worker"):  # which log each end of a job
        caplog.set_level(logging.CRITICAL, logger=name)
    wire = Wire(backend)
    wire.reconnect()
    examples = EXAMPLES or (100 if isinstance(backend, fakeredis.FakeRedis) else 300)
    run_state_machine_as_test(partial(Everything, backend, wire), settings=settings(PROFILE, max_examples=examples))  # type: ignore[arg-type]
