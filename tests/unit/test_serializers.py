from __future__ import annotations

import collections
import enum
import http
import json
import pickle
import signal
import time
import zlib
from typing import Any

import pytest
from rq.serializers import resolve_serializer

from jobqueue.errors import NotSerializable
from jobqueue.serializers import JSON, Auto, compress, decompress, format_of


class Colour(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    BIG = 3


class Fruit(enum.StrEnum):
    PEAR = "pear"


class Id(int):
    pass


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ({"a": [1, 2.5, None, True, "ü\u2028"]}, {"a": [1, 2.5, None, True, "ü\u2028"]}),
        ((1, (2, 3)), [1, [2, 3]]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (Id(7), 7),
        (10**30, 10**30),
        ("", ""),
    ],
)
def test_json_returns_the_values_it_was_given(value: Any, back: Any) -> None:
    assert JSON.loads(JSON.dumps(value)) == back


def test_json_is_compact_utf8() -> None:
    assert JSON.dumps(("a", None, [1, 2], {"k": "ü"})) == '["a",null,[1,2],{"k":"ü"}]'.encode()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1: "a"}, "key 1"),
        ({"a": [{None: 1}]}, r"\['a'\]\[0\]"),
        ({True: 1}, "key True"),
        ([{1, 2}], "type set"),
        (b"x", "type bytes"),
        ([1, [2, Colour.RED]], r"Colour.RED: 1> \(at \[1\]\[1\]\), a member of an enum"),
        (Size.BIG, "Size.BIG: 3>, a member of an enum: give its .value or .name"),
        ({"a": Fruit.PEAR}, r"Fruit.PEAR: 'pear'> \(at \['a'\]\)"),
        ({Fruit.PEAR: 1}, "the key <Fruit.PEAR"),
        (http.HTTPStatus.OK, "HTTPStatus.OK: 200>"),
        (signal.SIGTERM, "SIGTERM: 15>"),
        (Point(1, 2), "type test_serializers.Point: it would lose the names"),
        ([time.gmtime(0)], r"struct_time \(at \[0\]\): it would lose the names"),
        (float("nan"), "nan|not JSON compliant"),
        ([float("inf")], "inf|not JSON compliant"),
        (object(), "type object"),
        ("\ud800", "surrogate"),
        ([10**5000], "4300"),
    ],
)
def test_json_refuses_values_that_it_would_change(value: Any, words: str) -> None:
    with pytest.raises(NotSerializable, match=words) as caught:
        JSON.dumps(value)
    assert "\n" not in str(caught.value)


def test_json_refuses_a_value_that_contains_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotSerializable, match="holds itself"):
        JSON.dumps(value)


def test_auto_reads_both_formats_and_writes_json() -> None:
    assert Auto.loads(pickle.dumps({1: {2}})) == {1: {2}}
    assert Auto.loads(b'{"a": 1}') == {"a": 1}
    assert Auto.dumps([1]) == b"[1]"


@pytest.mark.parametrize("name", ["JSON", "Auto"])
def test_rq_accepts_our_serializers(name: str) -> None:
    serializer = resolve_serializer(f"jobqueue.serializers.{name}")
    assert serializer.loads(serializer.dumps({"a": 1})) == {"a": 1}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_format_of_pickled_data_is_recognized(protocol: int) -> None:
    assert format_of(pickle.dumps((1, 2), protocol)) == "pickle"


@pytest.mark.parametrize("value", [None, True, 1, -1, "a", [], {}])
def test_the_format_of_json_data_is_recognized(value: Any) -> None:
    assert format_of(json.dumps(value).encode()) == "json"


def test_only_large_data_is_compressed() -> None:
    assert compress(b"a" * 512) == b"a" * 512
    assert len(compress(b"a" * 513)) < 100
    assert decompress(compress(b"a" * 513)) == b"a" * 513


@pytest.mark.parametrize("data", [b"", b"[1]", b"\x80\x05N.", b"xyz is not zlib"])
def test_decompress_leaves_uncompressed_data_alone(data: bytes) -> None:
    assert decompress(data) == data
    assert decompress(zlib.compress(data)) == data
