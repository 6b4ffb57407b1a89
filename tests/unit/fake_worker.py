"""Stand in for a worker that finishes and fails jobs, and run commands in this process."""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

from click.testing import CliRunner, Result

from jobqueue.cli import main
from jobqueue.protocol import keys
from jobqueue.store.connection import redis


def invoke(url: str, *args: str, **env: str) -> Result:
    """Run a command with the store at ``url``; a traceback fails the test."""
    result = CliRunner(env=env).invoke(main, [*args, "--url", url])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def finish(r: redis.Redis, job_id: str, value: Any = None) -> None:
    """Record a result as a worker does."""
    entry: dict[str, Any] = {"type": 1}
    if value is not None:
        entry["return_value"] = base64.b64encode(json.dumps(value).encode())
    _end(r, job_id, "finished", entry)


def fail(r: redis.Redis, job_id: str, traceback: str, status: str = "failed") -> None:
    """Record a failure as a worker does."""
    _end(r, job_id, status, {"type": 2, "exc_string": base64.b64encode(zlib.compress(traceback.encode()))})


def _end(r: redis.Redis, job_id: str, status: str, entry: dict[str, Any]) -> None:
    with r.pipeline() as pipe:
        pipe.hset(keys.job(job_id), mapping={"status": status, "ended_at": "2026-01-02T03:04:05.678901Z"})
        pipe.xadd(keys.results(job_id), entry)
        if status != "finished":
            origin = r.hget(keys.job(job_id), "origin") or b"q"
            pipe.zadd(keys.registry("failed", origin.decode()), {job_id: time.time() + 1000})
            pipe.lrem(keys.queue(origin.decode()), 0, job_id)
        pipe.execute()
