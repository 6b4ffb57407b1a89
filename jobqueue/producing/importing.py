"""Find out in a process of its own whether a worker could import its modules, so that this process stays unchanged."""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_CODE = """
import json, os, sys
from jobqueue.workers.forking.forkserver import describe_import_error
from jobqueue.workers.forking.preload import preload
from jobqueue.plugins.finding import PluginChoice
said = "ready"
try:
    *arguments, plugins = json.loads(sys.argv[2])
    preload(*arguments, plugins and PluginChoice(*map(tuple, plugins)))
except BaseException as e:
    said = describe_import_error(e)
os.write(int(sys.argv[1]), " ".join(said.split()).encode(errors="replace")[:4000] + b"\\n")
os._exit(0)
"""


@contextmanager
def ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Inside, an exception that interrupts this process kills the other one too. That one has a process group of its
    own: Ctrl-C would otherwise reach it in the middle of an import and make it print a traceback."""
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise


def answer_of(process: subprocess.Popen[bytes], answer: int, on_wait: Callable[[], object] = lambda: None) -> bytes:
    """Return the line that the process writes, or what there is of it when it has left: what it has started may hold
    the other end of the pipe for ever. ``on_wait`` is called now and then meanwhile."""
    said, poll = b"", select.poll()
    poll.register(answer, select.POLLIN)
    while not said.endswith(b"\n"):
        has_left = process.poll() is not None
        if poll.poll(0 if has_left else 100):
            if not (more := os.read(answer, 65536)):
                break
            said += more
        elif has_left:
            break
        on_wait()
    return said


def place_of(error: BaseException, ours: Collection[str] = ()) -> str:
    """Return file:line of the user's module that raised, "" if it is unknown; for an error in Python's own library
    (argparse at import), the line that called it. ours: files that only did the import."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    skipped = {*ours, __file__, importlib.__file__}
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith("<") and f.filename not in skipped  # <frozen importlib>, <string>
    ]
    theirs = [f for f in frames if not _is_pythons(f.filename)] or frames
    return f"{theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""


def cannot_import(said: str) -> str:
    """Return the sentence for an answer of ``why_not_imported``; it names the flag that is wrong, if that is the
    cause."""
    flag = said.removeprefix("ImportError: ")
    return flag if flag.startswith("-") else f"a served module cannot be imported: {said}"


def _is_pythons(path: str) -> bool:
    return path.startswith(_LIBRARY) and "-packages" not in path


def module_of(path: str) -> str:
    """Return the name under which a file below the current directory is imported; "" if it has none."""
    name = os.path.relpath(path).removesuffix(".py").replace(os.sep, ".")
    return name if all(part.isidentifier() for part in name.split(".")) else ""


def why_not_imported(
    modules: Sequence[str],
    handlers: Sequence[str] = (),
    classes: Mapping[str, str] | None = None,
    plugins: tuple[Sequence[str], Sequence[str]] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> str:
    """Import as a fork server does (the arguments are those of its ``preload``); return what went wrong in one line, ""
    when nothing did. plugins: those that are asked for and those that are left out; None: load none. env: the process's
    environment; quiet: discard what the modules print."""
    ours, theirs = os.pipe()
    output = subprocess.DEVNULL if quiet else None
    with os.fdopen(ours, "rb") as answer:
        with os.fdopen(theirs, "wb"):
            argv = [
                sys.executable,
                "-P",
                "-c",
                _CODE,
                str(theirs),
                json.dumps([modules, handlers, classes or {}, plugins]),
            ]
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs],
                env=env,
                process_group=0,
            )
        with ended_with_us(process):
            said = answer_of(process, answer.fileno()).decode(errors="replace").strip()
            code = process.wait()
    if said == "ready":  # the exit code does not count: a module that calls sys.exit(0) was not imported
        return ""
    how = f"was killed by signal {-code}" if code < 0 else f"left with exit code {code}"
    return said or f"the process that did it {how}"
