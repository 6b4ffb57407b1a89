"""Priorities of django.tasks: a queue for each level, which a worker serves from the highest to the lowest.

A level is the least priority above 0, or the greatest below 0, of the tasks in its queue. By default there are three:
    default+1     priorities 1 to 100
    default       0
    default-1     -100 to -1
"""

from __future__ import annotations

from collections.abc import Collection

LEVELS = (1, 0, -1)


def level_of(priority: int, levels: Collection[int]) -> int:
    """Return the level of a priority."""
    if priority > 0:
        return max((level for level in levels if 0 < level <= priority), default=0)
    return min((level for level in levels if priority <= level < 0), default=0)


def queue_of(name: str, level: int) -> str:
    """Return the queue that holds the tasks of a level."""
    return f"{name}{level:+d}" if level else name
