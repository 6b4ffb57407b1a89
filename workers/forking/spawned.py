"""Be a spawned child: a new process that imports the modules itself, as they leave something that a fork must not copy
(fork_hazards.py)."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from jobqueue.workers.child.child import become_child, lead_a_session
from jobqueue.workers.forking.forkserver import describe_import_error, make_child
from jobqueue.workers.forking.preload import import_all
from jobqueue.workers.running.output import buffer_lines
from jobqueue.workers.running.own_classes import runner_for
from jobqueue.workers.running.plugin_calls import plugins_of
from jobqueue.workers.shared.logs import set_up_logging
from jobqueue.workers.shared.messages import CannotBegin, ForkRequest, decode, encode
from jobqueue.workers.shared.process_tree import Forks
from jobqueue.workers.shared.settings import Settings


def main() -> None:
    settings = Settings.from_json(os.environ.pop("JOBQ_CHILD_SETTINGS"))
    request: ForkRequest = decode(sys.argv[1].strip().encode(), ForkRequest)
    page_file, faults, fd, name = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    lead_a_session()
    os.set_inheritable(fd, False)
    set_up_logging(settings.log_format, settings.verbose, settings.worker)
    buffer_lines()
    try:
        found = import_all(settings)
    except BaseException as e:
        _say_why(fd, e)
        raise SystemExit(1) from None
    become_child(
        lambda: make_child(
            settings, request, (page_file, faults), fd, runner_for(settings), plugins_of(found, settings.verbose)
        ),
        os.getppid(),
        name,
        Forks(),
    )


def _say_why(fd: int, error: BaseException) -> None:
    """Send the supervisor the reason why an import failed here that succeeded in the fork server."""
    with contextlib.suppress(OSError), socket.socket(fileno=fd) as control:
        control.sendall(encode(CannotBegin(describe_import_error(error))))


if __name__ == "__main__":
    main()
