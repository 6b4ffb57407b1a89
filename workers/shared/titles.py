"""Process titles: `ps` and `top` tell a worker's processes apart where setproctitle is there (the extra ``titles``)."""

from __future__ import annotations

import os

from jobqueue.words import TITLE


def show(worker: str, role: str) -> None:
    """Show this process as the worker's ``role``. Called once per process, before it does anything of the user's; does
    nothing where setproctitle is missing.

    The environment keeps its place behind the arguments, where others read it (/proc/PID/environ): a title is cut off
    at the length of the command line.
    """
    before = os.environ.get("SPT_NOENV")
    os.environ["SPT_NOENV"] = "1"  # read when the first title is set
    try:
        from setproctitle import setproctitle

        setproctitle(f"{TITLE}{role} of {worker}")
    except ImportError:
        pass
    finally:
        if before is None:
            del os.environ["SPT_NOENV"]
        else:
            os.environ["SPT_NOENV"] = before
