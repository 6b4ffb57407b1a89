"""Fetch the source distribution of the installed rq, which contains its tests: ``python tests/conformance/fetch.py``.

It goes through pip, and so to the index that the user has configured. Done once; a set-up step, never part of a test.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HOME = Path(__file__).parents[2] / ".rq"
VERSION = version("rq")
SDIST = HOME / f"rq-{VERSION}.tar.gz"


def pip() -> list[str]:
    """Return this environment's pip, or that of the Python that made the environment (README makes it without its own
    pip)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    python = shutil.which("python3", path=None) or sys._base_executable  # type: ignore[attr-defined]
    for candidate in (sys._base_executable, python):  # type: ignore[attr-defined]
        if subprocess.run([candidate, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return [candidate, "-m", "pip", "--python", sys.executable]
    raise SystemExit("fetch.py: no pip found: install one (apt install python3-pip) and run this again")


def fetch() -> None:
    if SDIST.exists():
        return
    wanted = f"rq=={VERSION}"
    argv = [*pip(), "download", "-q", "--no-deps", "--no-binary", "rq", "--dest", str(HOME), wanted]
    if subprocess.run(argv).returncode:
        raise SystemExit(f"fetch.py: pip could not download the source of {wanted}")


if __name__ == "__main__":
    fetch()
    subprocess.run([sys.executable, str(Path(__file__).parents[1] / "postgres.py")])  # optional: tests skip without it
