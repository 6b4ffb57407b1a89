"""What the HTTP server answers: /metrics for Prometheus, /healthz for probes, /keda for KEDA's metrics-api scaler."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from jobqueue.admin.demand import demands
from jobqueue.errors import BadValue
from jobqueue.protocol.names import queue_name
from jobqueue.store.connection import redis

TEXT, JSON = "text/plain; charset=utf-8", "application/json"


class Reply(NamedTuple):
    """A status, a content type and a body."""

    status: int
    type: str
    body: bytes


class Pages:
    """Answers requests; any thread may call it. ``why_not`` says why the answer of /healthz is no; "": it is yes."""

    def __init__(self, collector: Collector, client: redis.Redis, why_not: Callable[[], str]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._collecting = threading.Lock()
        self._client = client
        self._why_not = why_not

    def get(self, target: str, accept: str = "") -> Reply:
        """Return the reply to ``GET target``."""
        parts = urlsplit(target)
        match parts.path:
            case "/metrics":
                return self._metrics(accept)
            case "/healthz":
                return self._health()
            case "/keda":
                return self._keda(parse_qs(parts.query))
            case "/":
                return Reply(200, TEXT, b"/metrics\n/healthz\n/keda?queue=NAME\n")
        return Reply(404, TEXT, b"there are /metrics, /healthz and /keda?queue=NAME\n")

    def _metrics(self, accept: str) -> Reply:
        encode, content_type = choose_encoder(accept)
        with self._collecting:
            return Reply(200, content_type, encode(self._registry))

    def _health(self) -> Reply:
        why_not = self._why_not()
        return Reply(503 if why_not else 200, TEXT, f"{why_not or 'able to claim'}\n".encode())

    def _keda(self, query: Mapping[str, Sequence[str]]) -> Reply:
        """Return the demand of the queues that the query names, together."""
        try:
            names = [queue_name(name) for name in query.get("queue", ())]
        except BadValue as e:
            return _json(400, {"error": str(e)})
        if not names:
            return _json(400, {"error": "name a queue: /keda?queue=NAME"})
        try:
            first, *others = demands(self._client, list(dict.fromkeys(names)))
        except (redis.RedisError, OSError) as e:  # no number: KEDA then does what the ScaledObject's fallback says
            return _json(503, {"error": f"the store cannot be read: {e}"})
        total = first
        for other in others:
            total += other
        return _json(
            200,
            {
                "waiting": total.waiting,
                "running": total.running,
                "waiting_plus_running": total.waiting + total.running,
                "latency_seconds": round(total.latency, 3),
            },
        )


def _json(status: int, value: Mapping[str, object]) -> Reply:
    return Reply(status, JSON, json.dumps(value).encode() + b"\n")
