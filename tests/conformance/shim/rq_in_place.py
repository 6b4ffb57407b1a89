"""Put our classes in place of RQ's, and a private server in place of localhost:6379.

A place is the name of one of RQ's classes. Everything in RQ that holds the class holds ours afterwards: modules and
class attributes, in this process and, through sitecustomize.py, in those that the tests start.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import socket
import sys
from types import FunctionType
from typing import Any

import redis.connection

PLACES = ("SimpleWorker", "Worker", "Queue")
RQ_PORT = 6379  # where RQ's tests look for their server


def put(places: list[str], server: str) -> None:
    """Put our classes in ``places``; ``server`` is the socket that is used for localhost:6379."""
    send_to(server)
    import rq

    for module in pkgutil.walk_packages(rq.__path__, "rq."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    pairs = [(getattr(rq, place), ours(place)) for place in places]
    for theirs, own in pairs:
        replace(theirs, own)
    if {"SimpleWorker", "Worker"} & set(places):
        count_loops()


def ours(place: str) -> type:
    """Return our class for one of RQ's."""
    if place == "Queue":
        import queue_in_place

        return queue_in_place.Queue
    from jobqueue.workers.rq_classes import worker as rq_worker

    found: type = getattr(rq_worker, place)
    return found


def count_loops() -> None:
    """Record for each work() which loop ran, so that a run of RQ's own loop is not taken for ours."""
    from jobqueue.workers.rq_classes import worker as rq_worker

    judge = rq_worker.why_rq

    def why_rq(*args: Any) -> str:
        why = judge(*args)
        with open(os.environ["JOBQ_CONFORMANCE_RECORD"], "a") as f:
            f.write(json.dumps(["theirs" if why else "ours", "loop", 0.0, why]) + "\n")
        return why

    rq_worker.why_rq = why_rq


def replace(theirs: type, own: type) -> None:
    """Put ``own`` wherever RQ holds ``theirs``."""
    modules = [m for name, m in list(sys.modules.items()) if name == "rq" or name.startswith("rq.")]
    classes = {c for m in modules for c in vars(m).values() if isinstance(c, type) and c.__module__.startswith("rq")}
    for holder in (*modules, *classes):
        for name, value in list(vars(holder).items()):
            if value is theirs:
                setattr(holder, name, own)
            elif isinstance(value, FunctionType) and value.__module__.startswith("rq"):
                defaults = value.__defaults__ or ()
                value.__defaults__ = tuple(own if default is theirs else default for default in defaults) or None


def send_to(server: str) -> None:
    """Make every connection to localhost:6379 go to this socket instead."""
    connect = redis.connection.Connection._connect

    def _connect(self: Any) -> Any:
        if self.port != RQ_PORT or self.host not in ("localhost", "127.0.0.1"):
            return connect(self)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(self.socket_connect_timeout)
        sock.connect(server)
        sock.settimeout(self.socket_timeout)
        return sock

    redis.connection.Connection._connect = _connect
