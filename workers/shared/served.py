"""Decide which functions a worker runs: those of the modules, and the single functions, that it serves."""

from __future__ import annotations

from jobqueue.errors import NotServed


def check_served(path: str, name: str, served: tuple[str, ...]) -> None:
    """Raise NotServed unless ``path`` is in a served module or is a served function."""
    if not any(path == dotted(it) or (path.startswith(f"{it}.") and not is_function(it)) for it in served):
        raise NotServed(
            f"This worker does not serve {name}: start it with {flags_for(path, name)} and requeue the job."
        )


def flags_for(path: str, name: str) -> str:
    """Return the flags that serve the function ``name``. The first one always does: ``-I os:system`` serves that name,
    while ``-I os`` does not serve a function that os has imported from another module (posix)."""
    if "." not in name:  # a method: its class is served by its module only
        return f"-I {path} (or --allow-any)"
    module = _module_in(name)
    one = f"-I {module}:{name[len(module) + 1 :]}"
    if path != name:  # the module is served, and only passes this function on
        return f"{one} (or --allow-any)"
    return f"{one} (-I {module} for all of its functions, --allow-any for everything)"


def _module_in(name: str) -> str:
    """Return the module in a dotted name, without an import: the part before the first word written like a class."""
    *parents, _ = name.split(".")
    classes = [i for i, word in enumerate(parents) if i and word[:1].isupper()]
    return ".".join(parents[: classes[0]] if classes else parents)


def is_function(served: str) -> bool:
    """Return whether this names a function: ``-I module:function`` serves nothing else of its module."""
    return ":" in served


def dotted(served: str) -> str:
    return served.replace(":", ".")
