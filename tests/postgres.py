"""A private PostgreSQL for tests: Debian's server programs on a directory of its own, reached by a unix socket.

``python tests/postgres.py`` installs Debian's package where the programs are missing and this may be done (as root); a
set-up step, never part of a test.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OWNER = "postgres"  # the programs refuse to run as root; Debian's package makes this user


def programs() -> Path | None:
    """Return the directory of initdb and postgres; None where they are not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def why_missing() -> str:
    """Return why tests cannot start a PostgreSQL here; "" if they can."""
    return "" if programs() else "PostgreSQL is not installed (apt install postgresql): its tests were not run"


def eventually(check: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait until it is so. (tests/helpers.py has this too, and needs all of jobq.)"""
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Postgres:
    """One server. ``host`` and ``user`` are what a client needs; there is no password."""

    def __init__(self) -> None:
        found = programs()
        assert found is not None
        directory = Path(tempfile.mkdtemp(prefix="jobq-pg-"))
        owner = OWNER if os.getuid() == 0 else None
        if owner:
            shutil.chown(directory, owner)
        self.host, self.user = str(directory), owner or getpass.getuser()
        data = str(directory / "data")
        make = [str(found / "initdb"), "-D", data, "-A", "trust", "-U", self.user, "--no-sync", "--no-locale"]
        subprocess.run(make, user=owner, cwd=directory, check=True, capture_output=True)
        serve = [str(found / "postgres"), "-D", data, "-k", self.host, "-c", "listen_addresses=", "-c", "fsync=off"]
        with open(directory / "log", "wb") as log:
            self.process = subprocess.Popen(serve, user=owner, cwd=directory, stdout=log, stderr=log)
        eventually(self._answers, 60)

    def connect(self) -> Any:
        """Return a connection of psycopg's; close it."""
        import psycopg

        return psycopg.connect(host=self.host, user=self.user, dbname="postgres", autocommit=True)

    def close_all_connections(self) -> int:
        """Have the server close all connections but ours, as an administrator does; return how many there were."""
        ours = "datname = 'postgres' AND pid <> pg_backend_pid()"
        with self.connect() as connection:
            closed = connection.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}"
            ).fetchall()
            eventually(lambda: connection.execute(f"SELECT 1 FROM pg_stat_activity WHERE {ours}").fetchone() is None)
        return len(closed)

    def _answers(self) -> bool:
        try:
            self.connect().close()
            return True
        except OSError:
            return False
        except Exception:  # psycopg's, which is not there where these tests do not run
            assert self.process.poll() is None, Path(self.host, "log").read_text()
            return False

    def stop(self) -> None:
        """Stop the server at once; its data is of no use."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
        shutil.rmtree(self.host)


def install() -> None:
    """Install Debian's package, if it is missing and this process may do so. The tests say what is missing."""
    if programs() or os.getuid() != 0 or not shutil.which("apt-get"):
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    impatient = ["-qq", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
        if subprocess.run(["apt-get", *impatient, *command], env=env, stdout=sys.stderr).returncode:
            return


if __name__ == "__main__":
    install()
