"""Check for the libraries of download and scrape, which the extra web-tasks installs, and word the message if they are
missing."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

LIBRARIES = {"httpx2": "httpx2", "httpcore2": "httpcore2", "bs4": "beautifulsoup4"}  # module → distribution
TASKS = ("download", "scrape")
INSTALL = "pip install 'jobq[web-tasks]'"


def missing(tasks: Iterable[str] = TASKS) -> str:
    """Return a sentence about those of these tasks that cannot run here; "" when all can."""
    ours = [task for task in TASKS if task in tasks or f"jobqueue.tasks.{task}" in tasks]
    absent = [package for module, package in LIBRARIES.items() if find_spec(module) is None]
    return sentence(ours, absent) if ours and absent else ""


def sentence(tasks: Iterable[str], packages: Iterable[str]) -> str:
    names, libraries = list(tasks), " and ".join(packages)
    verb = "need" if len(names) > 1 else "needs"
    return f"{' and '.join(names)} {verb} {libraries}, which this Python does not have: {INSTALL}"
