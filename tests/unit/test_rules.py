"""CONTRIBUTING.md, "Who may do what", where no linter can tell: calls of methods, and keys spelled as text."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("jobqueue", "workers") for path in (ROOT / package).rglob("*.py"))

CLIENTS = {"jobqueue/store/connection.py"}
SCRIPTS = {"jobqueue/protocol/protocol.py"}
KEYS = {"jobqueue/protocol/keys.py"}

Finder = Callable[[ast.AST], Iterator[ast.AST]]


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def clients(tree: ast.AST) -> Iterator[ast.AST]:
    """A client or a pool of redis-py's that is made."""
    makers = {"Redis", "StrictRedis", "Sentinel", "RedisCluster", "ConnectionPool", "from_url", "from_pool"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in makers and not ast.unparse(node.func).startswith("httpcore"):
            yield node


def scripts(tree: ast.AST) -> Iterator[ast.AST]:
    """A script that is run or loaded."""
    runners = {"evalsha", "register_script", "script_load", "fcall"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first = node.args[0] if node.args else None
            raw = isinstance(first, ast.Constant) and str(first.value).upper() in {"EVAL", "EVALSHA", "FCALL"}
            if name_of(node) in runners or raw or (isinstance(node.func, ast.Attribute) and node.func.attr == "eval"):
                yield node


def spelled_keys(tree: ast.AST) -> Iterator[ast.AST]:
    """A text with one of RQ's or jobq's keys in it, docstrings apart."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    key = re.compile(r"(^|[^\w])rq:\w|:jobq:|^jobq:\w+:")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in prose:
            text = node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
            if key.search(text):
                yield node


def plural_endings(tree: ast.AST) -> Iterator[ast.AST]:
    """An ending that is put behind a noun, or not, by hand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            parts = {part.value for part in (node.body, node.orelse) if isinstance(part, ast.Constant)}
            if "" in parts and parts & {"s", "es"}:
                yield node


def found(finder: Finder, allowed: set[str]) -> list[str]:
    return [
        f"{name}:{getattr(node, 'lineno', 0)}"
        for path in SOURCES
        if (name := path.relative_to(ROOT).as_posix()) not in allowed
        for node in finder(ast.parse(path.read_text()))
    ]


@pytest.mark.parametrize(
    ("finder", "allowed"), [(clients, CLIENTS), (scripts, SCRIPTS), (spelled_keys, KEYS), (plural_endings, set())]
)
def test_only_one_module_does_it(finder: Finder, allowed: set[str]) -> None:
    assert found(finder, allowed) == []


@pytest.mark.parametrize(
    ("finder", "source"),
    [
        (clients, "redis.Redis(host='x')"),
        (clients, "Redis.from_url(u)"),
        (clients, "redis.ConnectionPool()"),
        (scripts, "client.eval('return 1', 0)"),
        (scripts, "client.register_script(text)"),
        (scripts, "client.execute_command('EVALSHA', sha, 0)"),
        (plural_endings, "f\"{n} job{'s' if n != 1 else ''}\""),
        (spelled_keys, "client.get('rq:job:1')"),
        (spelled_keys, "f'{PREFIX}:jobq:own:{name}'"),
    ],
)
def test_it_would_be_found(finder: Finder, source: str) -> None:
    assert list(finder(ast.parse(source)))


def test_what_is_allowed_is_there() -> None:
    """A renamed file must not leave a hole behind."""
    assert {place.partition(":")[0] for place in found(clients, set())} == CLIENTS
    assert {place.partition(":")[0] for place in found(scripts, set())} == SCRIPTS
    assert {place.partition(":")[0] for place in found(spelled_keys, set())} == KEYS


def test_each_package_is_installed() -> None:
    """``workers/`` is installed as ``jobqueue.workers``; setuptools does not find a package that is not listed."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    there = {".".join(folder.parts).replace("workers", "jobqueue.workers", 1) for folder in folders}
    assert sorted(there) == sorted(listed)
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)
