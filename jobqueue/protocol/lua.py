"""Load the Lua scripts under ``scripts/``, with the digests by which the server knows them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from jobqueue.protocol import bounds, keys, resp

WITHOUT_PRELUDE = {"submit", "survey"}


@cache
def source(name: str) -> str:
    """Return the text of script ``name`` after the prelude, with RQ's key prefix put in."""
    scripts = resources.files(__package__) / "scripts"
    if name in WITHOUT_PRELUDE:
        return (scripts / f"{name}.lua").read_text()
    prelude = (scripts / "_prelude.lua").read_text()
    prelude = prelude.replace("@PREFIX@", keys.PREFIX).replace("@LONGEST@", str(bounds.LONGEST))
    return prelude + (scripts / f"{name}.lua").read_text()


@cache
def packed_head(name: str, by_digest: bool) -> bytes:
    """Return the first arguments of an EVALSHA, or of an EVAL, for resp.ask."""
    what = digest(name) if by_digest else source(name)
    return resp.strings((b"EVALSHA" if by_digest else b"EVAL", what.encode()))


@cache
def digest(name: str) -> str:
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()
