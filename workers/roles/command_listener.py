"""Listen for RQ's commands to a worker (stop-job, stop-execution, shutdown, kill-horse), which are published."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import RedisError

from jobqueue.network.backoff import Backoff
from jobqueue.network.listening import ASK_AFTER, Listener
from jobqueue.protocol import keys
from jobqueue.workers.shared.failures import Failures, keep_going

log = logging.getLogger(__name__)

WHO = "listening for commands"


class CommandListener:
    """A thread of the supervisor that calls ``on_command`` with each command, which passes it to the main loop."""

    def __init__(
        self,
        client: redis.Redis,
        worker: str,
        on_command: Callable[[dict[str, Any]], None],
        failures: Failures | None = None,
    ) -> None:
        self._failures = failures or Failures()
        self._client = client
        self._channel = keys.channel(worker)
        self._on_command = on_command
        self._thread = threading.Thread(
            target=keep_going,
            args=[WHO, self._run, self._failures, threading.Event()],
            name="jobq-command-listener",
            daemon=True,
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                with Listener(self._client.connection_pool) as listener:
                    listener.subscribe(self._channel)
                    while True:
                        message = listener.get_message(ignore_subscribe_messages=True, timeout=ASK_AFTER)
                        backoff.reset()
                        self._failures.works(WHO)
                        if message:
                            self._hear(message)
            except (RedisError, OSError) as e:
                log.debug("listening for commands failed: %s", e)
                time.sleep(backoff.failed())

    def _hear(self, message: dict[str, Any]) -> None:
        """Pass a command on. Any client may publish anything, so data that is not a JSON object is ignored."""
        try:
            command = json.loads(message["data"])
        except (ValueError, TypeError, RecursionError):
            log.warning("a command that is not JSON was ignored")
            return
        if isinstance(command, dict):
            self._on_command(command)
