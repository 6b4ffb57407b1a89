"""Find the title and the links of an HTML page in one pass, in time that grows only with its length.

The tokens are those of the HTML standard (https://html.spec.whatwg.org/multipage/parsing.html#tokenization), without a
tree. html.parser is not used: it searches for the end of each tag, comment and declaration anew, so a page of a
megabyte of ``</`` costs it minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import NamedTuple

_TAG_NAME = re.compile(r"[^\s/>]+")
_SPACE_OR_SLASH = re.compile(r"[\s/]*")
_SPACE = re.compile(r"\s*")
_ATTRIBUTE_NAME = re.compile(r"[^\s/>][^\s/>=]*")
_UNQUOTED = re.compile(r"[^\s>]*")
# Elements whose content is text until </name.
_RAW = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"})


class Tag(NamedTuple):
    """A start tag. text: the content of an element whose content has no tags, as of title."""

    name: str
    attributes: dict[str, str]
    text: str = ""


def start_tags(page: str) -> Iterator[Tag]:
    """Iterate over the start tags of a page. A tag that is cut off at the page's end does not count."""
    at = 0
    while (at := page.find("<", at)) >= 0:
        following = page[at + 1 : at + 2]
        if following.isascii() and following.isalpha():
            read = _start_tag(page, at + 1)
            if read is None:
                return
            tag, at = read
            if tag.name in _RAW:
                end = _end_of_raw(page, tag.name, at)
                tag, at = tag._replace(text=page[at:end]), end
            yield tag
        elif following in ("!", "?", "/"):
            at = _past(page, at)
            if at < 0:
                return
        else:
            at += 1


def _past(page: str, at: int) -> int:
    """Return the position behind a comment, a declaration or an end tag; -1 when the page ends before it does."""
    if page.startswith("<!--", at):
        if page.startswith((">", "->"), at + 4):  # the standard's abruptly closed comment
            return page.find(">", at) + 1
        return -1 if (end := page.find("-->", at + 4)) < 0 else end + 3
    return -1 if (end := page.find(">", at + 2)) < 0 else end + 1


def _start_tag(page: str, at: int) -> tuple[Tag, int] | None:
    """Read a tag whose name begins here; return it and the position behind it, None when the page ends before it
    does."""
    name = _TAG_NAME.match(page, at)
    assert name is not None, "the caller has seen a letter"
    attributes: dict[str, str] = {}
    at = name.end()
    while True:
        at = _end(_SPACE_OR_SLASH, page, at)
        if at >= len(page):
            return None
        if page[at] == ">":
            return Tag(name[0].lower(), attributes), at + 1
        found = _ATTRIBUTE_NAME.match(page, at)
        assert found is not None, "there is a character that ends no tag"
        read = _value(page, found.end())
        if read is None:
            return None
        value, at = read
        attributes.setdefault(found[0].lower(), value)  # of two attributes with the same name the first counts


def _value(page: str, at: int) -> tuple[str, int] | None:
    """Read ``= value``, quoted or not, "" when there is none; None when a quote is never closed."""
    sign = _end(_SPACE, page, at)
    if page[sign : sign + 1] != "=":
        return "", at
    begin = _end(_SPACE, page, sign + 1)
    quote = page[begin : begin + 1]
    if quote in ('"', "'"):
        end = page.find(quote, begin + 1)
        return None if end < 0 else (unescape(page[begin + 1 : end]), end + 1)
    end = _end(_UNQUOTED, page, begin)
    return unescape(page[begin:end]), end


def _end_of_raw(page: str, name: str, at: int) -> int:
    """Return where the content of a raw element ends; the page's end if it is never closed."""
    closed = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(page, at)
    return closed.start() if closed else len(page)


def _end(pattern: re.Pattern[str], page: str, at: int) -> int:
    """Return where a pattern that matches everywhere ends."""
    found = pattern.match(page, at)
    return found.end() if found else at
