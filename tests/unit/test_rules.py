"""The rules of CONTRIBUTING.md that no linter checks: who may do what (method calls, keys as text), the map, the
words."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("jobqueue", "workers") for path in (ROOT / package).rglob("*.py"))

CLIENTS = {"jobqueue/store/connection.py"}
SCRIPTS = {"jobqueue/protocol/protocol.py", "jobqueue/protocol/wire.py"}
KEYS = {"jobqueue/protocol/keys.py"}
SEEDS = {"workers/running/randomness.py"}  # gives each child a seed of its own

Finder = Callable[[ast.AST], Iterator[ast.AST]]


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def clients(tree: ast.AST) -> Iterator[ast.AST]:
    """Find where a client or a pool of redis-py is made."""
    makers = {"Redis", "StrictRedis", "Sentinel", "RedisCluster", "ConnectionPool", "from_url", "from_pool"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in makers and not ast.unparse(node.func).startswith("httpcore"):
            yield node


def scripts(tree: ast.AST) -> Iterator[ast.AST]:
    """Find where a script is run or loaded."""
    runners = {"evalsha", "register_script", "script_load", "fcall"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first = node.args[0] if node.args else None
            raw = isinstance(first, ast.Constant) and str(first.value).upper() in {"EVAL", "EVALSHA", "FCALL"}
            if name_of(node) in runners or raw or (isinstance(node.func, ast.Attribute) and node.func.attr == "eval"):
                yield node


def spelled_keys(tree: ast.AST) -> Iterator[ast.AST]:
    """Find texts with one of RQ's or jobq's keys in them, except docstrings."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    key = re.compile(r"(^|[^\w])rq:\w|:jobq:|^jobq:\w+:")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in prose:
            text = node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
            if key.search(text):
                yield node


def plural_endings(tree: ast.AST) -> Iterator[ast.AST]:
    """Find where a plural ending is added to a noun by hand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            parts = {part.value for part in (node.body, node.orelse) if isinstance(part, ast.Constant)}
            if "" in parts and parts & {"s", "es"}:
                yield node


def own_clocks(tree: ast.AST) -> Iterator[ast.AST]:
    """Find classes that ask for the time themselves; with a clock that is passed in, a test could set it."""
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef):
            for node in ast.walk(cls):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.monotonic", "monotonic"}:
                    yield node


def global_random(tree: ast.AST) -> Iterator[ast.AST]:
    """Find where the global random generator is used; its numbers belong to the jobs."""
    own = {"Random", "SystemRandom"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random" and node.attr not in own:
            yield node
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from (it for it in node.names if it.name not in own)


def found(finder: Finder, allowed: set[str], below: tuple[str, ...] = ("",)) -> list[str]:
    return [
        f"{name}:{getattr(node, 'lineno', 0)}"
        for path in SOURCES
        if (name := path.relative_to(ROOT).as_posix()) not in allowed and name.startswith(below)
        for node in finder(ast.parse(path.read_text()))
    ]


@pytest.mark.parametrize(
    ("finder", "allowed"),
    [
        (clients, CLIENTS),
        (scripts, SCRIPTS),
        (spelled_keys, KEYS),
        (plural_endings, set()),
        (global_random, SEEDS),
    ],
)
def test_only_the_named_modules_do_it(finder: Finder, allowed: set[str]) -> None:
    assert found(finder, allowed) == []


# Where time is judged: leases, limits, silences, pauses.
TIMED = ("workers/supervisor/", "workers/roles/", "workers/shared/", "jobqueue/network/", "jobqueue/protocol/")
OWN_CLOCKS = {"jobqueue/network/silence.py"}  # redis-py compares what it writes with its own time.monotonic()


def test_a_clock_is_passed_in_where_time_is_judged() -> None:
    assert found(own_clocks, OWN_CLOCKS, TIMED) == []
    assert {place.partition(":")[0] for place in found(own_clocks, set(), TIMED)} == OWN_CLOCKS


@pytest.mark.parametrize(
    ("finder", "source"),
    [
        (own_clocks, "class A:\n    def step(self): return time.monotonic()"),
        (own_clocks, "class A:\n    def step(self): self.at = monotonic() + 1"),
        (clients, "redis.Redis(host='x')"),
        (clients, "Redis.from_url(u)"),
        (clients, "redis.ConnectionPool()"),
        (scripts, "client.eval('return 1', 0)"),
        (scripts, "client.register_script(text)"),
        (scripts, "client.execute_command('EVALSHA', sha, 0)"),
        (plural_endings, "f\"{n} job{'s' if n != 1 else ''}\""),
        (spelled_keys, "client.get('rq:job:1')"),
        (global_random, "pause * random.uniform(0.5, 1.0)"),
        (global_random, "from random import shuffle"),
        (spelled_keys, "f'{PREFIX}:jobq:own:{name}'"),
    ],
)
def test_each_finder_finds_an_example(finder: Finder, source: str) -> None:
    assert list(finder(ast.parse(source)))


def test_each_allowed_module_makes_use_of_its_exception() -> None:
    """A renamed file must not leave an exception without a subject."""
    assert {place.partition(":")[0] for place in found(clients, set())} == CLIENTS
    assert {place.partition(":")[0] for place in found(scripts, set())} == SCRIPTS
    assert {place.partition(":")[0] for place in found(spelled_keys, set())} == KEYS
    assert {place.partition(":")[0] for place in found(global_random, set())} == SEEDS


def test_each_package_is_installed() -> None:
    """``workers/`` is installed as ``jobqueue.workers``; setuptools does not find a package that is not listed."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    there = {".".join(folder.parts).replace("workers", "jobqueue.workers", 1) for folder in folders}
    assert sorted(there) == sorted(listed)
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)


# -- the map, and the words --------------------------------------------------------------------------------------------


def mapped(text: str) -> dict[str, list[str]]:
    """Return the modules that the map names, by package."""
    found: dict[str, list[str]] = {}
    package = ""
    for line in text.partition("## The map")[2].partition("\n## ")[0].splitlines():
        if match := re.match(r" {4}((?:jobqueue|workers)/\S*) +\S", line):
            package = match[1]
            found[package] = []
        elif package and line.startswith(" " * 20):
            found[package] += line.replace(",", " ").split()
        else:
            package = ""
    return found


def packaged(sources: Iterable[str]) -> dict[str, list[str]]:
    """Return the modules that exist, by package."""
    found: dict[str, list[str]] = {}
    for name in sources:
        folder, _, module = name.rpartition("/")
        names = found.setdefault(f"{folder}/", [])
        if not module.startswith("__"):
            names.append(module.removesuffix(".py"))
    return found


def test_the_map_names_each_package_and_each_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    there = packaged(path.relative_to(ROOT).as_posix() for path in SOURCES)
    assert {package: sorted(names) for package, names in mapped(text).items()} == {
        package: sorted(names) for package, names in there.items()
    }
    assert max(map(len, text.partition("## The map")[2].partition("\n## ")[0].splitlines())) <= 120


def test_a_module_missing_from_the_map_would_be_found() -> None:
    text = "## The map\n\n    workers/child/    Runs jobs.\n" + " " * 22 + "slot, consumer\n\n    tests/unit   quick\n"
    assert mapped(text) == packaged(["workers/child/__init__.py", "workers/child/slot.py", "workers/child/consumer.py"])
    assert mapped(text) != packaged(["workers/child/slot.py"])


# Class → why two may have this name.
HOMONYMS: dict[str, str] = {}


def classes(sources: Iterable[tuple[str, ast.Module]]) -> dict[str, list[str]]:
    """Return where each public class, and each name of a type, is defined."""
    found: dict[str, list[str]] = {}
    for name, tree in sources:
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name)
    return found


def homonyms(sources: Iterable[tuple[str, ast.Module]]) -> dict[str, list[str]]:
    return {name: places for name, places in classes(sources).items() if len(places) > 1}


def test_no_two_classes_share_a_name() -> None:
    found = homonyms((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in SOURCES)
    assert {name: places for name, places in found.items() if name not in HOMONYMS} == {}
    assert found.keys() >= HOMONYMS.keys()


def test_a_homonym_would_be_found() -> None:
    tree = ast.parse("class Row: ...\nclass _Own: ...")
    assert homonyms([("a.py", tree), ("b.py", tree)]) == {"Row": ["a.py", "b.py"]}


# Words that are not used any more, as the field has terms for these things: see the glossary.
RETIRED = frozenset(
    re.findall(
        r"\w+",
        """
        bury buried burial clerk courier crew crews duties errand errands freezer gauges guard hindrance hungry insist
        leash nursery pace parcel patiently region regions registrar remains roster seat seats steward told transmission
        trouble undertaker worn
        """,
    )
)


def retired(tree: ast.AST) -> Iterator[ast.AST]:
    """Find identifiers that contain a retired word as a whole word."""
    for node in ast.walk(tree):
        names = [getattr(node, field, None) for field in ("id", "attr", "name", "arg", "module", "asname")]
        words = re.sub(
            r"(?<=[a-z0-9])(?=[A-Z])", "_", " ".join(name for name in names if isinstance(name, str))
        ).lower()
        if not RETIRED.isdisjoint(re.split(r"[^a-z0-9]+", words)):
            yield node


def test_no_retired_word_stands_in_a_name() -> None:
    assert found(retired, set()) == []
    assert RETIRED.isdisjoint(
        part for path in SOURCES for part in re.split(r"[/_.]", path.relative_to(ROOT).as_posix())
    )


@pytest.mark.parametrize("source", ["class Courier: ...", "x._seat = 1", "from a.pace import b", "def f(on_worn): ..."])
def test_a_retired_word_would_be_found(source: str) -> None:
    assert list(retired(ast.parse(source)))
