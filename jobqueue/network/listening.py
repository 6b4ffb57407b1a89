"""Publish and subscribe over a connection that may die silently: after a silence, a PING checks it."""

from __future__ import annotations

from typing import Any

import redis
from redis.client import PubSub

from jobqueue.clock import monotonic

ASK_AFTER = 5.0  # seconds of silence
ANSWER = 5.0  # seconds for the answer to PING


class Listener(PubSub):
    """redis-py's PubSub, with a PING after each silence. Without an answer ``get_message`` raises ConnectionError, and
    the next call connects and subscribes again; messages that were published meanwhile are lost, as always with
    Redis."""

    _clock = staticmethod(monotonic)
    _heard = 0.0  # when the last message came, monotonic
    _asked = 0.0  # when the PING that has no answer yet was sent, monotonic; 0.0: there is none

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)
        self.health_check_response_counter = 0
        self._heard, self._asked = self._clock(), 0.0

    def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """Return the next message, or None if none comes within ``timeout`` seconds (at most a few seconds)."""
        due = self._look_after_it()
        wait = due if timeout is None else min(timeout, due)
        return super().get_message(ignore_subscribe_messages, timeout=wait)

    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        unanswered = self.health_check_response_counter
        response = super().parse_response(block, timeout)  # type: ignore[no-untyped-call]
        if response is not None or self.health_check_response_counter < unanswered:
            self._heard, self._asked = self._clock(), 0.0
        return response

    def check_health(self) -> None:
        """Do nothing: redis-py's health check does not wait for the answer; ``get_message`` checks."""

    def _look_after_it(self) -> float:
        """Send a PING, or give up, when it is time; return the seconds until the next call is due."""
        connection, now = self.connection, self._clock()
        if connection is None or not self.subscribed:
            return ASK_AFTER
        if self._asked and now >= self._asked + ANSWER:
            self._asked, self._heard = 0.0, now
            connection.disconnect()
            raise redis.ConnectionError(f"no answer to PING for {ANSWER:g} s")
        if not self._asked and now >= self._heard + ASK_AFTER:
            self._asked = now
            self.health_check_response_counter += 1
            ping = ("PING", self.HEALTH_CHECK_MESSAGE)
            with self._lock:  # other threads subscribe and unsubscribe
                self._execute(connection, connection.send_command, *ping, check_health=False)
        return max(0.0, self._asked + ANSWER - now if self._asked else self._heard + ASK_AFTER - now)
