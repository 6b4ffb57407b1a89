"""A served module that replaces Python's threads when it is imported, as ``gevent.monkey.patch_all()`` does."""

from __future__ import annotations

import samples_patching
from samples import ok

__all__ = ["ok"]

samples_patching.replace_threads()
