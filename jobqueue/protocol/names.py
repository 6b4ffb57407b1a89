"""Which names queues and jobs may have: text that a person can read in one line and that every reader can write.

Checked where a name enters, by the command line, the Python API and cron files. What stands in the store already is
read whatever its name is.
"""

from __future__ import annotations

import re

from jobqueue.errors import BadType, BadValue

LONGEST = 255  # characters; names are parts of keys, log lines and tables
_ID = re.compile(r"[A-Za-z0-9_-]+")  # RQ's


def queue_name(name: object) -> str:
    """Return the name. Raises BadValue for one that no queue may have, with a sentence for the user."""
    text = _readable(name, "A queue's name")
    if text.endswith(":intermediate") or ":intermediate:first_seen:" in text:
        raise BadValue(
            f"A queue's name cannot end with :intermediate, as {_shown(text)} does: there RQ keeps the jobs of another "
            "queue that a worker has taken and not started yet."
        )
    return text


def job_id(name: object) -> str:
    """Return the id of a job or of a schedule. Raises BadValue."""
    text = _readable(name, "An id")
    if not _ID.fullmatch(text):
        raise BadValue(f"An id has only letters, digits, _ and -: {_shown(text)} cannot be one.")
    return text


def schedule_name(name: object) -> str:
    """Return what a schedule, such as an entry of a cron file, is called beside its id. Raises BadValue."""
    return _readable(name, "A schedule's name")


def callback(option: str, name: object) -> None:
    """Check the name by which workers are to import a callback. Raises BadValue."""
    text = _readable(name, option)
    if "<lambda>" in text or "<locals>" in text:
        what = "a lambda" if "<lambda>" in text else f"{_shown(text)}, defined inside a function"
        raise BadValue(f"{option} is {what}: a worker cannot import that, so use a function of a module.")


def _readable(name: object, what: str) -> str:
    if not isinstance(name, str):
        raise BadType(f"{what} is a text, not {_shown(repr(name))}.")
    if not name.strip():
        raise BadValue(f"{what} cannot be empty or blank.")
    if len(name) > LONGEST:
        raise BadValue(f"{what} has {LONGEST} characters at most, and this one has {len(name):,}.")
    if not name.isprintable():  # line breaks, control characters, bytes that are no text
        raise BadValue(f"{what} has only characters that can be printed: {_shown(ascii(name))} cannot be one.")
    return name


def _shown(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
