"""Read the name of a job's function from the first bytes of its data. No code of the user's runs: nothing is
unpickled."""

from __future__ import annotations

import json
import re
import zlib

HEAD = 2048  # bytes that are looked at
_JSON_LIST = re.compile(r"\s*\[\s*(?=\")")
# What may come before the first text in a pickle: the protocol, a frame, the mark of a tuple or a list.
_PICKLE_TEXT = re.compile(rb"\x80.(?:\x95.{8})?[(\])]*(?:\x8c(?P<short>.)|X(?P<long>.{4}))", re.DOTALL)


def task_name(data: bytes) -> str:
    """Return the function as ``module:name``, or only its name if it is a method of an object; "": it cannot be read,
    as in the format of a user's serializer."""
    head = _head(data)
    name = _of_pickle(head) if head[:1] == b"\x80" else _of_json(head)
    home, _, function = name.rpartition(".")
    return f"{home}:{function}" if home else function


def _head(data: bytes) -> bytes:
    if data[:1] != b"x":  # as serializers.decompress
        return data[:HEAD]
    try:
        return zlib.decompressobj().decompress(data, HEAD)
    except zlib.error:
        return data[:HEAD]


def _of_json(head: bytes) -> str:
    text = head.decode("utf-8", "replace")
    if not (begin := _JSON_LIST.match(text)):
        return ""
    try:
        name, _ = json.JSONDecoder().raw_decode(text, begin.end())
    except ValueError:  # it is longer than the bytes that were read
        return ""
    return str(name)


def _of_pickle(head: bytes) -> str:
    if not (begin := _PICKLE_TEXT.match(head)):
        return ""
    size = int.from_bytes(begin["short"] or begin["long"], "little")
    name = head[begin.end() : begin.end() + size]
    return name.decode("utf-8", "replace") if len(name) == size else ""
