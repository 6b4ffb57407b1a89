"""Read which function a job calls, as far as its data shows it without being decoded."""

from __future__ import annotations

import json
import pickle
import zlib
from typing import Any

import pytest

from jobqueue.workers.child.task_name import HEAD, task_name

NAME = "shop.tasks.resize"


def call(name: str = NAME, *args: Any) -> tuple[str, None, tuple[Any, ...], dict[str, Any]]:
    return name, None, args, {}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("args", [(), (1, "x"), ("y" * 100_000,)])
def test_the_name_in_a_pickle(protocol: int, zipped: bool, args: tuple[Any, ...]) -> None:
    data = pickle.dumps(call(NAME, *args), protocol)
    assert task_name(zlib.compress(data) if zipped else data) == "shop.tasks:resize"


@pytest.mark.parametrize("zipped", [False, True])
def test_the_name_in_json(zipped: bool) -> None:
    data = json.dumps(call(NAME, "y" * 100_000)).encode()
    assert task_name(zlib.compress(data) if zipped else data) == "shop.tasks:resize"


def test_the_name_with_any_characters() -> None:
    assert task_name(json.dumps(call("a.ü\n")).encode()) == "a:ü\n"
    assert task_name(json.dumps(call("method")).encode()) == "method"
    assert task_name(pickle.dumps(call("a.b" + "c" * 300))) == "a:b" + "c" * 300


def dangerous() -> None:
    raise AssertionError("it was unpickled")


class Hostile:
    def __reduce__(self) -> Any:
        return dangerous, ()


def test_nothing_is_unpickled() -> None:
    assert task_name(pickle.dumps((NAME, Hostile(), (), {}))) == "shop.tasks:resize"
    assert task_name(pickle.dumps(Hostile())) in ("", "tests:unit", __name__.replace(".", ":"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x80",
        b"\x80\x05",
        b"[",
        b"[1]",
        b'["a',
        b"\xff\xfe",
        b"\x81\xa1a",
        b"\x80\x05X\xff\xff\xff\xff",
        json.dumps(call("a." + "b" * HEAD)).encode(),
        pickle.dumps(call("a." + "b" * HEAD)),
    ],
)
def test_data_without_a_readable_name(data: bytes) -> None:
    assert task_name(data) == ""
