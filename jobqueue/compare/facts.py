"""Describe where a comparison was measured: the interpreter, the GIL, the cores, the store."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from jobqueue.compare.noise import is_noisy
from jobqueue.insight.capacity import cores as usable_cores
from jobqueue.store.open import Store

BUSY = 0.5  # load per core above which other programs distort the figures


def machine(store: Store, gil: bool, turned_on_by: Sequence[str], load: float) -> dict[str, Any]:
    """Describe the machine. gil, turned_on_by: the GIL as the processes that ran the tasks saw it."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "gil_enabled": gil,
        "gil_enabled_by": list(turned_on_by),
        "cores": usable_cores(),
        "load_before": round(load, 2),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "jobq": version("jobq"),
        "store": _store(store),
    }


def _store(store: Store) -> str:
    """Describe the store; of a temporary one only the server's version, because nobody can look at it later."""
    said = store.describe().removeprefix("store: ")
    if store.local is None:
        return said
    return f"a temporary one ({said.rpartition('(')[2].rstrip(')').removesuffix(', started now')})"


def busy(machine: dict[str, Any]) -> str | None:
    """Return a warning when other programs kept the machine busy before or during the comparison, else None."""
    load, cores = machine.get("load_before", 0.0), machine["cores"]
    before, during = machine.get("others_before", 0.0), machine.get("others_during", 0.0)
    said = []
    if load > BUSY * cores or is_noisy(before, cores):
        said.append(f"was busy before it began (load {load:.1f})")
    if is_noisy(during, cores):
        said.append(f"had other work meanwhile ({during:.1f} of {cores} cores)")
    return f"This machine {' and '.join(said)}: the figures are low and uneven." if said else None
