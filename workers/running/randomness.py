"""Give each process its own random numbers: a fork copies the state of all random number generators.

The global generators (``random``, ``numpy.random``, torch's) are seeded again from the operating system in each child,
and after a job has imported modules, which may seed them. A generator that a module created for itself is not seeded
again, as its sequence may be meant. The worker warns of it, unless a hook of ``os.register_at_fork`` seeds it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any, ParamSpec, TypeVar

from jobqueue.workers.shared.bare import attributes_of

P = ParamSpec("P")
T = TypeVar("T")
_METHODS = (BuiltinMethodType, MethodType)


def reseed() -> None:
    """Seed the global generators from the operating system. Imports nothing: generators of modules that are not
    imported are left out."""
    random.seed()
    _reseed_numpy(sys.modules.get("numpy.random"))
    torch: Any = sys.modules.get("torch")
    if (generator := getattr(torch, "default_generator", None)) is not None:
        generator.seed()


def _reseed_numpy(module: Any) -> None:
    if (seed := getattr(module, "seed", None)) is None:  # the module is not imported, or only in part
        return
    try:
        seed()
    except TypeError:  # set_bit_generator has set a generator that cannot be seeded again
        module.set_bit_generator(type(module.get_bit_generator())())


def reseeding(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that may import modules; then seed again the generators that these modules may have seeded."""
    before = len(sys.modules)
    result = function(*args, **kwargs)
    if len(sys.modules) != before:
        reseed()
    return result


def own_generators(served: Iterable[str]) -> dict[str, Any]:
    """Return the generators that the served modules and their packages have created, by the names that hold them."""
    kinds = _kinds()
    found: dict[int, tuple[str, Any]] = {}
    for module in modules_of(served):
        for name, value in _values_of(module):
            owner = value.__self__ if type(value) in _METHODS else value
            kind = type(owner)
            if issubclass(kind, kinds) and not issubclass(kind, random.SystemRandom) and not _is_global(owner):
                found.setdefault(id(owner), (f"{name_of(module)}.{name}", owner))
    return dict(found.values())


def states_of_own(served: Iterable[str]) -> dict[str, Any]:
    """Return the states of these generators, by name. Equal states produce the same numbers."""
    return {name: _state_of(generator) for name, generator in own_generators(served).items()}


def _state_of(generator: Any) -> Any:
    try:
        return _asked_for_its_state(generator)
    except BaseException:  # a class of the user's, which may have no state that can be read
        return object()


def _asked_for_its_state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    bits = getattr(generator, "bit_generator", None) or getattr(generator, "_bit_generator", generator)
    return repr(bits.state)


def warning_of(names: Iterable[str]) -> str:
    """Return the warning for generators that produce the same numbers in all children."""
    first, *more = names
    what = ", ".join([first, *more])
    return (
        f"{what}: {'these generators give' if more else 'this generator gives'} every child the same random numbers, "
        f"because the fork copies {'them' if more else 'it'}. Create a new one in each child: "
        f"os.register_at_fork(after_in_child=...), docs/usage.md has the line"
    )


def _kinds() -> tuple[type, ...]:
    numpy: Any = sys.modules.get("numpy.random")
    names = ("Generator", "RandomState", "BitGenerator")
    return (random.Random, *(kind for name in names if isinstance(kind := getattr(numpy, name, None), type)))


def _is_global(generator: Any) -> bool:
    """Return whether ``reseed`` seeds this generator."""
    numpy: Any = sys.modules.get("numpy.random")
    mtrand: Any = getattr(numpy, "mtrand", None)
    known = (getattr(random, "_inst", None), getattr(mtrand, "_rand", None))
    return any(generator is it for it in known if it is not None)


def modules_of(served: Iterable[str]) -> Iterator[ModuleType]:
    """Yield the served modules, and all imported modules of their top-level packages."""
    roots = {name.partition(":")[0].partition(".")[0] for name in served} - {"jobqueue"}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in roots and issubclass(type(module), ModuleType):
            yield module


def name_of(module: ModuleType) -> str:
    """Return the module's own ``__name__``."""
    return str(attributes_of(module).get("__name__", "?"))


def _values_of(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the module's globals, and the attributes of its classes, by name."""
    own = attributes_of(module)
    for name, value in list(own.items()):
        yield name, value
        if issubclass(type(value), type) and attributes_of(value).get("__module__") == own.get("__name__"):
            yield from ((f"{name}.{inner}", it) for inner, it in list(attributes_of(value).items()))
