"""Read attributes of users' classes and modules without calling their code: a metaclass, or a module that loads itself
at its first use, may do anything when an attribute is read, also exit the process."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, cast

_type, _module = cast(Any, type), cast(Any, ModuleType)
_type_dict, _type_mro = _type.__dict__["__dict__"].__get__, _type.__dict__["__mro__"].__get__
_module_dict = _module.__dict__["__dict__"].__get__


def attributes_of(it: type | ModuleType) -> Mapping[str, Any]:
    """Return what ``vars`` returns."""
    found: Mapping[str, Any] = (_type_dict if issubclass(type(it), type) else _module_dict)(it)
    return found


def bases_of(kind: type) -> tuple[type, ...]:
    """Return the class and its bases, in the order of its MRO."""
    found: tuple[type, ...] = _type_mro(kind)
    return found


def has(kind: type, name: str) -> bool:
    """Return whether the class has this attribute, so that its instances have it too."""
    return any(name in attributes_of(base) for base in bases_of(kind))
