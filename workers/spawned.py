"""Entry of a child that could not be forked, because importing its modules starts threads."""

from __future__ import annotations

import os
import sys

from workers.child import become_child
from workers.forkserver import make_child
from workers.logs import set_up_logging
from workers.runner import Runner, preload
from workers.settings import Settings


def main() -> None:
    settings = Settings.from_json(os.environ.pop("JOBQ_CHILD_SETTINGS"))
    owner, child, pages, fd = sys.argv[1], *(int(a) for a in sys.argv[2:5])
    os.set_inheritable(fd, False)
    set_up_logging(settings.log_format, settings.verbose)
    preload(settings.modules)
    become_child(lambda: make_child(settings, owner, child, pages, fd, Runner(settings)), os.getppid())


if __name__ == "__main__":
    main()
