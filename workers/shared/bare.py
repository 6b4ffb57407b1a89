"""Look at the classes and modules of users without calling code of theirs: a metaclass, or a module that loads itself
when it is touched, may do anything when it is asked for an attribute, also leave the process."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, cast

_type, _module = cast(Any, type), cast(Any, ModuleType)
_type_dict, _type_mro = _type.__dict__["__dict__"].__get__, _type.__dict__["__mro__"].__get__
_module_dict = _module.__dict__["__dict__"].__get__


def attributes_of(it: type | ModuleType) -> Mapping[str, Any]:
    """As ``vars``."""
    found: Mapping[str, Any] = (_type_dict if issubclass(type(it), type) else _module_dict)(it)
    return found


def bases_of(kind: type) -> tuple[type, ...]:
    """The class and all that it inherits from, in their order."""
    found: tuple[type, ...] = _type_mro(kind)
    return found


def has(kind: type, name: str) -> bool:
    """Its instances have this by their class."""
    return any(name in attributes_of(base) for base in bases_of(kind))
