"""Fixtures of all tests: a private server, and worker trees that are ended after each test."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

pytest.register_assert_rewrite("helpers")

from helpers import Server, Tree, assert_nothing_left  # noqa: E402

from jobqueue.producing.queue import Queue  # noqa: E402

os.environ["SPT_NOENV"] = "1"  # RQ's worker sets a title if setproctitle is installed; /proc/PID/environ has to stay

# A shell that runs pytest in the background ignores SIGINT, nohup SIGHUP, and every process started from here would
# inherit that. xdist's workers are such processes, and come by here too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Asserts in the parts of the state machine say what they compared. (A conftest.py of its own would hide this one.)
pytest.register_assert_rewrite(
    "machine", "model", "model_owners", "rules_of_children", "rules_of_clients", "rules_of_deaths"
)

Start = Callable[..., Tree]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as slow whose case runs in another mode already (marker ``spread``): of the modes of each case one
    stays, in turn."""
    values: dict[str, list[str]] = {}  # of the argument that is spread, by test function
    cases: dict[str, list[str]] = {}
    for item in sorted(items, key=lambda it: it.nodeid):  # they are shuffled
        if not (marker := item.get_closest_marker("spread")) or not isinstance(item, pytest.Function):
            continue
        function = item.nodeid.partition("[")[0]
        value = str(item.callspec.params[marker.args[0]])
        case = "-".join(it for it in item.callspec.id.split("-") if it != value)
        all_values, all_cases = values.setdefault(function, []), cases.setdefault(function, [])
        for one, among in ((value, all_values), (case, all_cases)):
            if one not in among:
                among.append(one)
        if all_cases.index(case) % 2 != all_values.index(value) % 2:
            item.add_marker("slow")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Tell fixtures whether the test passed: after a failure they make no further checks."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call":
        item.stash[PASSED] = report.passed


PASSED = pytest.StashKey[bool]()


@pytest.fixture(scope="module")
def module_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a module; with STORE_KEEPS in the module it has an AOF."""
    server = Server(tmp_path_factory.mktemp("store"), keep=getattr(request.module, "STORE_KEEPS", False))
    yield server
    server.stop()


@pytest.fixture
def server(module_server: Server) -> Server:
    """The module's server, empty."""
    module_server.client.flushall()
    return module_server


@pytest.fixture
def store(server: Server) -> redis.Redis:
    """A client of the server."""
    return server.client


@pytest.fixture
def queue(store: redis.Redis) -> Queue:
    return Queue(connection=store)


@pytest.fixture(params=["thread", "process"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Start]:
    """Start workers: ``start("-n", "2", mode=mode, JOBQ_LEASE="1")``; they serve ``samples`` by default. After a passed
    test, workers that still run are stopped, and then no process may be left."""
    trees: list[Tree] = []

    def start_one(*flags: str, mode: str = "process", serve: tuple[str, ...] = ("samples",), **env: str) -> Tree:
        modules = [flag for name in serve for flag in ("-I", name)]
        tree = Tree(server.url, tmp_path, ["--mode", mode, *modules, *flags], env)
        trees.append(tree)
        return tree

    try:
        yield start_one
        if request.node.stash.get(PASSED, False):
            leave_properly(trees)
            assert_nothing_left(trees, server.client)
    finally:
        for tree in trees:
            tree.destroy()


@pytest.fixture
def start_rq(server: Server, tmp_path: Path) -> Iterator[Start]:
    """``start_rq(place, *argv)`` starts an ``rq worker`` with our class in this place of RQ's."""
    trees: list[Tree] = []

    def start(place: str, *argv: str, lease: str = "1", **env: str) -> Tree:
        more = ("--url", server.url, "--worker-class", f"jobqueue.rq.{place}")
        own = {"JOBQ_LEASE": lease, **env}
        trees.append(Tree(server.url, tmp_path, [*more, *argv], own, command=("rq.cli", "worker")))
        return trees[-1]

    yield start
    for tree in trees:
        tree.destroy()


def leave_properly(trees: list[Tree]) -> None:
    for tree in trees:
        if tree.process.poll() is None:
            tree.send(signal.SIGTERM)
    for tree in trees:
        if not tree.was_killed:
            tree.wait()
            assert "Traceback" not in tree.log, tree.log


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Restore the handlers that RQ's workers in this process leave behind: a later SIGTERM would raise in another
    test."""
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)
