"""Find the store's URL and the local store's directory: from a flag, the environment, or a default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jobqueue.errors import StoreError

URL_VARIABLES = ("JOBQ_URL", "REDIS_URL", "RQ_REDIS_URL")
LOCAL = "local"


def resolve_url(url: str | None, env: Mapping[str, str] = os.environ) -> tuple[str | None, str]:
    """Return the store's URL and where it came from: ``url`` itself, else the first of URL_VARIABLES that is set.

    Returns (None, "local") when nothing names one. Blank counts as unset: an empty variable is how shells and compose
    files unset one.
    """
    candidates = [("--url", url or ""), *((name, env.get(name, "")) for name in URL_VARIABLES)]
    for source, value in candidates:
        if value.strip():
            return value.strip(), source
    return None, LOCAL


def home(env: Mapping[str, str] = os.environ) -> Path:
    """Return the local store's directory: JOBQ_HOME, else the user's state directory. It need not exist yet.

    Raises StoreError when there is neither a JOBQ_HOME nor a home directory.
    """
    chosen = env.get("JOBQ_HOME", "").strip()
    try:
        path = Path(chosen).expanduser() if chosen else _of_user()
    except RuntimeError:  # pathlib raises it for ~name of an unknown user
        raise StoreError(f"JOBQ_HOME={chosen}: there is no such user, or it has no home directory") from None
    if not chosen and not path.is_absolute():  # "~" could not be expanded, as in a container with an unknown uid
        raise StoreError("there is no home directory for the local store: set JOBQ_HOME to a directory of yours")
    return path.absolute()


def _of_user() -> Path:
    import platformdirs  # imported here: workers of a remote store do without it

    return platformdirs.user_state_path("jobq", appauthor=False)
