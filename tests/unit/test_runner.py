"""One job: which functions are served or refused, and what is made of a result or an exception."""

from __future__ import annotations

import asyncio
import base64
import pickle
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import rq
import samples_rq
from rq.exceptions import DeserializationError

from jobqueue.errors import NotServed
from jobqueue.protocol.outcomes import RAISED, RETURNED
from jobqueue.serializers import JSON
from jobqueue.store.connection import Address
from jobqueue.workers.forking.preload import preload
from jobqueue.workers.running.limits import Interrupted
from jobqueue.workers.running.own_classes import OwnRunner
from jobqueue.workers.running.runner import Ending, Runner, interrupted
from jobqueue.workers.shared.endings import decode_text
from jobqueue.workers.shared.settings import Settings


def runner(**fields: Any) -> Runner:
    told = {"modules": ("samples",), **fields}
    address = Address(url="redis://127.0.0.1:1/0")
    return Runner(Settings(address=address, worker="w", queues=("default",), children=1, slots=1, **told))


def data(function: str, *args: Any, **kwargs: Any) -> bytes:
    return JSON.dumps([function, None, args, kwargs])


def run(job: bytes, *, after_call: Callable[[], None] = lambda: None, **fields: Any) -> Ending:
    return runner(**fields).run(job, after_call)


def text(ending: Ending) -> str:
    assert ending.kind == RAISED
    return decode_text(ending.payload)


# -- ends well -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, False, "", [], {"a": [1, None]}, "ü", 1.5])
def test_a_value_is_encoded(value: object) -> None:
    ending = run(data("samples.ok", value))
    assert (ending.kind, ending.value, ending.error) == (RETURNED, value, None)
    assert runner().ending_of(ending.kind, ending.payload).value == value


def test_none_is_an_empty_payload() -> None:
    assert run(data("samples.ok", None)) == Ending(RETURNED, b"", None, None, "samples.ok")


def test_a_coroutine_is_awaited() -> None:
    assert run(data("samples.coroutine", 3)).value == 3


def test_the_event_loop_is_closed_afterwards() -> None:
    run(data("samples.coroutine", 3))
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_compressed_data() -> None:
    assert run(zlib.compress(data("samples.ok", 1))).value == 1
    assert run(zlib.compress(data("samples.ok", "x" * 9))).value == "x" * 9


def test_a_returned_retry_is_not_encoded() -> None:
    ending = run(pickled("samples.ok", rq.Retry(max=2)), accept=("json", "pickle"))
    assert ending.is_retry
    assert ending.payload == b""


def test_after_call_is_called_however_the_job_ends() -> None:
    for function in ("samples.ok", "samples.fail", "samples.leave", "samples.nonsense"):
        calls: list[int] = []
        run(data(function), after_call=lambda calls=calls: calls.append(1))  # type: ignore[misc]
        assert calls == [1]


# -- ends badly ------------------------------------------------------------------------------------------------------


def test_the_traceback_begins_with_the_jobs_own_code() -> None:
    lines = text(run(data("samples.fail", "no"))).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "samples.py" in lines[1]
    assert lines[-1] == "ValueError: no"
    assert not [line for line in lines if "runner.py" in line]


@pytest.mark.parametrize(("call", "frames"), [(("samples.ok", 1, 2, 3), 1), (("math.sqrt", "x"), 1), (("no.such",), 0)])
def test_the_traceback_of_a_failed_call_keeps_one_line_of_ours(call: tuple[Any, ...], frames: int) -> None:
    """The line shows that the call was made; an error before the call has no traceback."""
    lines = text(run(data(*call), allow_any=True)).splitlines()
    assert sum(line.startswith('  File "') and "runner.py" in line for line in lines) == frames
    assert lines[0].startswith("Traceback") == bool(frames)


@pytest.mark.parametrize(("function", "last"), [("samples.leave", "SystemExit: 3"), ("builtins.fail", "")])
def test_a_job_that_exits_or_does_not_exist_fails(function: str, last: str) -> None:
    assert text(run(data(function))).strip().splitlines()[-1].startswith(last)


def test_an_interrupt_is_not_caught() -> None:
    """An interrupt is raised by the worker itself and not turned into a failure; ``after_call`` is called all the
    same."""
    calls: list[int] = []
    with pytest.raises(Interrupted):
        run(
            pickled("samples.throw", Interrupted()),
            after_call=lambda: calls.append(1),
            allow_any=True,
            accept=("pickle",),
        )
    assert calls == [1]


@pytest.mark.parametrize("function", ["samples.return_a_set"])
def test_a_result_that_json_cannot_carry_fails_the_job(function: str) -> None:
    last = text(run(data(function))).strip().splitlines()[-1]
    assert "ResultNotSerializable: return_a_set returned a value that json cannot carry" in last
    assert "set" in last


def test_a_pickled_job_has_a_pickled_result() -> None:
    ending = run(pickled("samples.return_a_set"), accept=("json", "pickle"))
    assert ending.value == {1, 2}
    assert runner().ending_of(ending.kind, ending.payload).value == {1, 2}


def test_an_exceptions_text_with_a_lone_surrogate() -> None:
    """A lone surrogate in an exception's message must not stop the worker."""
    assert "\\udc80" in text(run(pickled("samples.fail", "\udc80"), accept=("pickle",)))


def test_interrupted_has_a_reason() -> None:
    assert "--on-crash fail forbids a second run" in text(interrupted())


# -- what is served --------------------------------------------------------------------------------------------------


def pickled(function: str, *args: Any, instance: Any = None) -> bytes:
    return pickle.dumps((function, instance, args, {}), pickle.HIGHEST_PROTOCOL)


class Method:
    def go(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        ("os.system", "-I os "),
        ("os.path.join", "-I os.path "),
        ("samplesandmore.ok", "-I samplesandmore "),
        ("samples.borrowed", "does not serve samples.borrowed"),  # `from os import getpid as borrowed`
        ("samples.os.getpid", "does not serve samples.os.getpid"),
        ("samples.Path", "does not serve samples.Path"),
        ("ok", "-I ok "),
        ("", "does not serve"),
    ],
)
def test_functions_that_are_not_served_are_refused(function: str, hint: str) -> None:
    said = text(run(data(function)))
    assert "NotServed" in said
    assert hint in said


def test_builtin_tasks_are_always_served() -> None:
    assert run(data("jobqueue.tasks.square", 3), modules=()).value == 9
    with pytest.raises(NotServed):
        runner(modules=()).decode(data("jobqueue.tasks.os.getpid"))


def test_a_missing_function_is_named_with_its_module_and_a_hint() -> None:
    said = text(run(data("samples.hidden")))
    assert "ValueError: Invalid attribute name: hidden: samples has no hidden when a worker imports it; " in said
    assert "__main__" in said


def test_allow_any_serves_every_function() -> None:
    assert run(data("os.path.join", "a", "b"), modules=(), allow_any=True).value == "a/b"


def test_names_of_things_that_are_no_function_are_refused() -> None:
    assert "samples.__all__ is not a function" in text(run(data("samples.__all__")))


def test_pickle_is_refused_before_it_is_read() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("it was read",)

    said = text(run(pickled("samples.ok", Bomb())))
    assert "This job's data is pickle, and this worker reads json only" in said
    assert "--accept json,pickle" in said


def test_json_may_be_refused_too() -> None:
    assert "data is json" in text(run(data("samples.ok"), accept=("pickle",)))


def test_methods_are_served_with_their_module() -> None:
    job = pickled("go", instance=Method())
    assert run(job, accept=("pickle",), modules=(__name__,)).value == 5
    assert "NotServed" in text(run(job, accept=("pickle",)))


@pytest.mark.parametrize("junk", [b"", b"{", b"[1]", b"null", b'["a"]', b'["a",null,[],{},5]', b"x\x9cjunk", b"\xff"])
def test_data_that_is_no_call_is_refused(junk: bytes) -> None:
    with pytest.raises(DeserializationError, match="is not a call in "):
        runner().decode(junk)


@pytest.mark.parametrize("junk", [b"[1,null,[],{}]", b'["samples.ok",null,5,{}]', b'["samples.ok",null,[],[]]'])
def test_data_with_invalid_arguments_fails_the_job(junk: bytes) -> None:
    assert text(run(junk))


def test_a_name_without_a_module_is_refused() -> None:
    assert "square: a function is found by its module's name and its own" in text(
        run(data("square", 1), allow_any=True)
    )


# -- a serializer of one's own ---------------------------------------------------------------------------------------


def test_a_custom_serializer_is_used_for_all_data() -> None:
    own = OwnRunner(runner(serializer="samples_rq.Backwards")._settings, samples_rq.Backwards)
    job = samples_rq.Backwards.dumps(["samples.ok", None, [{"a": 1}], {}])
    ending = own.run(job, lambda: None)
    assert (ending.kind, ending.value) == (RETURNED, {"a": 1})
    assert samples_rq.Backwards.loads(base64.b64decode(ending.payload)) == {"a": 1}
    assert own.ending_of(ending.kind, ending.payload).value == {"a": 1}
    assert own.serializer_of(job) is samples_rq.Backwards
    assert "samples_rq.Backwards cannot carry" in text(
        own.run(samples_rq.Backwards.dumps(["samples.return_a_set", None, [], {}]), lambda: None)
    )
    assert "not a call in the format of samples_rq.Backwards" in text(own.run(data("samples.ok", 1), lambda: None))
    served = samples_rq.Backwards.dumps(["os.getpid", None, [], {}])
    assert "does not serve os.getpid" in text(own.run(served, lambda: None))


# -- importing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shop/tasks.py", "tasks.py/", "a b", "", ".", "a..b", "-I"])
def test_preload_accepts_names_of_modules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # preload puts "" into it
    with pytest.raises(ImportError, match=r"module's name"):
        preload((name,))


def test_preload_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    preload(("samples",))
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        preload(("nowhere",))


def test_class_methods_are_served_with_their_class() -> None:
    """RQ binds a class method to its class, so the data has the class in place of an instance."""
    job = pickle.dumps(("what", samples_rq.Basket, (), {}))
    assert run(job, modules=("samples_rq",), accept=("json", "pickle")).value == "basket"
    assert "start it with -I samples_rq" in text(run(job, accept=("json", "pickle")))


# -- single functions ------------------------------------------------------------------------------------------------


def test_a_served_function_serves_nothing_else_of_its_module() -> None:
    served = ("os:getpid", "samples:borrowed", "builtins:pow")
    assert run(data("builtins.pow", 2, 3), modules=served).value == 8
    assert run(data("os.getpid"), modules=served).kind == RETURNED
    assert run(data("samples.borrowed"), modules=served).kind == RETURNED  # named itself, so it may come from elsewhere
    for name in ("os.system", "os.getpidx", "os.getpid.x", "samples.ok", "builtins.exec"):
        assert f"does not serve {name}: start it with -I" in text(run(data(name, "true"), modules=served))


def test_a_served_function_serves_no_method_of_a_pickled_object() -> None:
    job = pickle.dumps(("upper", "an object of builtins", (), {}))
    assert "does not serve" in text(run(job, modules=("builtins:pow",), accept=("pickle",)))


def test_preload_accepts_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    preload(("samples:ok", "os:getpid"))
    with pytest.raises(ImportError, match="-I samples:no_such: samples has no function"):
        preload(("samples:no_such",))
    for wrong in ("samples:", ":ok", "samples:a:b", "samples:o-k"):
        with pytest.raises(ImportError, match=r"module's name"):
            preload((wrong,))
