"""Check for prometheus_client, which the extra ``metrics`` installs, before anything imports it."""

from __future__ import annotations

from importlib.util import find_spec

from jobqueue.errors import ExtraMissing


def check_library() -> None:
    """Raises ExtraMissing with what to install."""
    if find_spec("prometheus_client") is None:
        raise ExtraMissing(
            "Metrics need prometheus-client, which this Python does not have: pip install 'jobq[metrics]'"
        )
