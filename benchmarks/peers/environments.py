"""Make an environment for each peer from the packages that its adapter names, once, and keep it in .venv-peers/."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ADAPTERS = Path(__file__).parent / "adapters"
ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".venv-peers"
INSTALL_LIMIT = 900.0  # seconds


class CannotInstall(Exception):
    """A peer's packages cannot be had here; the message says why."""


def names() -> list[str]:
    """Return all peers, jobq first and the bare pools last."""
    found = sorted(path.stem for path in ADAPTERS.glob("*.py") if path.stem != "__init__")
    return sorted(found, key=lambda name: (name != "jobq", name == "bare"))


def dependencies(name: str) -> list[str]:
    """Return the packages that an adapter asks for in its PEP 723 block."""
    block = re.search(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", (ADAPTERS / f"{name}.py").read_text())
    if block is None:
        raise CannotInstall(f"adapters/{name}.py names no packages (PEP 723)")
    lines = block["content"].splitlines()
    return tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))["dependencies"]


def environment(name: str, anew: bool = False) -> Path:
    """Return the bin directory of the peer's environment; make it where it is missing or asks for something else.

    Raises CannotInstall.
    """
    place, wanted = PLACE / name, "\n".join([*dependencies(name), sys.version])
    made_with = place / "made-with.txt"
    if anew or not made_with.exists() or made_with.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        _run([sys.executable, "-m", "venv", "--without-pip", str(place)])
        packages = [part for package in dependencies(name) for part in _source(package)]
        if packages:
            _run([*_pip(), "--python", str(place / "bin" / "python"), "install", "-q", *packages])
        made_with.write_text(wanted)
    return place / "bin"


def _source(package: str) -> list[str]:
    """Return what pip gets: for jobq this repository, as it is now and after each change."""
    return ["-e", str(ROOT)] if package == "jobq" else [package]


def _pip() -> list[str]:
    """Return a pip that can install elsewhere: this environment may have none."""
    for python in (sys.executable, str(Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}"))):
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        if subprocess.run([*pip, "--version"], capture_output=True).returncode == 0:
            return pip
    raise CannotInstall("there is no pip: neither in this environment nor beside its Python")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=INSTALL_LIMIT)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"{command[-1]} was not installed within {INSTALL_LIMIT:g} s") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise CannotInstall(next((line for line in said if "ERROR" in line), said[-1] if said else "pip failed"))
