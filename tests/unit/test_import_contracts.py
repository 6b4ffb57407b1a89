"""The import contracts of pyproject.toml hold, and each of them finds a breach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = [
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
]
# The module that is broken, what it imports, and words of the contract's name.
BREACHES = {
    "import the workers": ("jobqueue/doctor/server.py", "jobqueue.workers.shared.timestamps"),
    "modules in layers": ("jobqueue/store/address.py", "jobqueue.store.connection"),
    "imports the demo": ("jobqueue/admin/control.py", "jobqueue.chaos"),
    "import the comparison": ("jobqueue/admin/control.py", "jobqueue.compare"),
    "import the harness": ("jobqueue/admin/control.py", "jobqueue.harness"),
    "tasks are plain functions": ("jobqueue/tasks/page.py", "redis"),
    "libraries for terminals": ("jobqueue/protocol/names.py", "click"),
    "roles do not import each other": ("workers/roles/rescuer.py", "jobqueue.workers.roles.maintenance"),
    "only the Django app imports Django": ("jobqueue/admin/aside.py", "django.conf"),
    "packages in layers: the library": ("jobqueue/protocol/names.py", "jobqueue.store.config"),
    "import prometheus_client": ("workers/supervisor/signals.py", "prometheus_client"),
    "no import cycle": ("jobqueue/network/waits.py", "jobqueue.network.primary"),
    "packages in layers: launcher": ("workers/shared/attempts.py", "jobqueue.workers.roles.heartbeat"),
    "packages in layers: forking": ("workers/running/output.py", "jobqueue.workers.child.child"),
    "the supervisor's process imports nothing": ("workers/supervisor/burst.py", "jobqueue.workers.running.runner"),
}


def lint(home: Path) -> str:
    """Return import-linter's output in one line: each contract's name, KEPT or BROKEN."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home), "COLUMNS": "500", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("jobqueue", "workers"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(copy: Path) -> None:
    said = lint(copy)
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in said, said


def test_each_contract_finds_a_breach(copy: Path) -> None:
    assert len(BREACHES) == len(CONTRACTS)
    for path, module in BREACHES.values():
        with open(copy / path, "a") as file:
            file.write(f"\n\ndef breach() -> None:\n    import {module}\n")  # a lazy import counts too
    said = lint(copy)
    for words in BREACHES:
        [name] = [name for name in CONTRACTS if words in name]
        assert f"{name} BROKEN" in said, said
