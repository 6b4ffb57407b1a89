"""Jobs and a set-up of Sentry for the tests: envelopes go into the file that SENT names, a line of JSON each."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import sentry_sdk
from sentry_sdk.transport import Transport


class Collecting(Transport):
    """Writes down what would be sent."""

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            if item.type in ("event", "transaction"):
                line = json.dumps({"kind": item.type, **item.payload.json}, default=str)
                with open(os.environ["SENT"], "a") as file:
                    file.write(line + "\n")


if os.environ.get("SENT"):
    sentry_sdk.init(
        dsn="https://key@sentry.invalid/1",
        transport=Collecting,
        traces_sample_rate=1.0,
        send_default_pii=os.environ.get("PII") == "1",
        default_integrations=os.environ.get("DEFAULTS") == "1",
    )


def tagged(number: int) -> int:
    """Leave a tag, a breadcrumb and a user; every second one fails."""
    sentry_sdk.set_tag(f"tag-{number}", number)
    sentry_sdk.add_breadcrumb(message=f"crumb {number}")
    sentry_sdk.set_user({"id": str(number)})
    time.sleep(0.02)
    if number % 2:
        raise ValueError(f"number {number}")
    return number


def fail(secret: str = "") -> None:
    raise KeyError("no such thing")
