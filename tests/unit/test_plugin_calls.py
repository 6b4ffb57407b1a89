"""Plugins are found, loaded and called; what one raises harms neither the others nor who calls them."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from samples_plugins import Doubler, Idle, Raiser, Recorder, Refuser, Tagger, quiet

from jobqueue.errors import BadType, UsageError
from jobqueue.plugins import JobEnd, NewJob, Plugin, RunningJob, finding, producer
from jobqueue.plugins.calls import METHODS, Plugins, name_of
from jobqueue.plugins.finding import BuiltIn, CannotLoad, Found, PluginChoice, active, find_plugins, load_plugin
from jobqueue.plugins.producer import announce
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.outcomes import RAISED, RETURNED
from jobqueue.store.connection import Address
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.slot_parts import SlotParts
from jobqueue.workers.forking.preload import preload
from jobqueue.workers.running.plugin_calls import running_job, wrap_calls
from jobqueue.workers.running.runner import Runner
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.endings import decode_text
from jobqueue.workers.shared.settings import Settings

ROOT = Path(__file__).parents[2]


def job(**more: Any) -> RunningJob:
    return RunningJob("1", "default", "w", Mock(), **more)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Entry points that installed packages have registered."""
    points: list[tuple[str, str]] = []

    def registered(group: str) -> list[Any]:
        assert group == "jobq.plugins"
        return [types.SimpleNamespace(name=name, value=value) for name, value in points]

    monkeypatch.setattr(importlib.metadata, "entry_points", registered)
    producer._of_process.cache_clear()
    return points


def states(found: list[Found]) -> dict[str, str]:
    return {it.name: it.why_inactive for it in found if it.source != "built in"}


# -- finding -----------------------------------------------------------------------------------------------------------


def test_flags_the_environment_and_packages_name_plugins(
    packages: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBQ_PLUGINS", "samples_plugins:Doubler, samples_plugins:Idle")
    packages.append(("tagger", "samples_plugins:Tagger"))
    imported: list[str] = []
    found = find_plugins(PluginChoice(("samples_plugins:Recorder",)), on_import=imported.append)
    own = [it for it in found if it.source != "built in"]
    assert [it.source for it in own] == ["--plugin", "JOBQ_PLUGINS", "JOBQ_PLUGINS", "entry point tagger"]
    assert states(found) == {
        "samples_plugins:Recorder": "",
        "samples_plugins:Doubler": "",
        "samples_plugins:Idle": "SOMETHING is not set",
        "tagger": "",
    }
    assert imported == [it.target for it in own]
    assert [type(it) for it in active(own)] == [Recorder, Doubler, Tagger]
    assert own[-1].methods == ("around_job", "before_enqueue")


def test_one_that_is_named_twice_is_used_once(packages: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBQ_PLUGINS", "samples_plugins:Doubler")
    found = find_plugins(PluginChoice(("samples_plugins:Doubler", "samples_plugins:Doubler")))
    assert list(states(found)) == ["samples_plugins:Doubler"]


@pytest.mark.parametrize("flag", ["tagger", "samples_plugins:Tagger", "all"])
def test_one_of_a_package_can_be_left_out(packages: list[tuple[str, str]], flag: str) -> None:
    packages.append(("tagger", "samples_plugins:Tagger"))
    assert states(find_plugins(PluginChoice((), (flag,)))) == {"tagger": f"--no-plugin {flag}"}


def test_one_of_a_package_that_cannot_be_loaded_is_logged(
    packages: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    packages += [("broken", "no_such_module:X"), ("text", "samples_plugins:no_plugin")]
    found = find_plugins(PluginChoice())
    assert active(found) == []
    assert "plugin broken: it cannot be loaded and is left out" in caplog.text
    assert "no subclass of jobqueue.plugins.Plugin" in states(found)["text"]


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("samples_plugins", "named as module:Class"),
        ("samples_plugins:Nope", "samples_plugins has no Nope."),
        ("samples_plugins:no_plugin", "no subclass of"),
        ("no_such_module:X", "there is no module no_such_module"),
    ],
)
def test_one_that_was_asked_for_has_to_be_there(packages: list[tuple[str, str]], target: str, sentence: str) -> None:
    with pytest.raises(CannotLoad, match=sentence):
        find_plugins(PluginChoice((target,)))
    with pytest.raises(ImportError, match=f"--plugin .*{sentence}"):
        preload((), plugins=PluginChoice((target,)))


def test_django_without_settings_is_left_alone() -> None:
    """A library that supports Django may import it in a program that is no Django project."""
    django = pytest.importorskip("django.apps")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("DJANGO_SETTINGS_MODULE", raising=False)
        preload(["math"])
    assert not django.apps.ready


def test_one_in_this_directory_is_found_where_the_path_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `jobq submit`, with JOBQ_PLUGINS in the environment."""
    (tmp_path / "in_this_directory.py").write_text("from samples_plugins import Doubler\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [it for it in sys.path if it])
    assert isinstance(load_plugin("in_this_directory:Doubler"), Doubler)
    assert sys.path[-1] == str(tmp_path)
    before = list(sys.path)
    with pytest.raises(CannotLoad, match=r"there is no module no_package\.plugins"):
        load_plugin("no_package.plugins:X")
    assert sys.path == before


def test_an_object_is_a_plugin_too() -> None:
    assert load_plugin("samples_plugins:quiet") is quiet
    assert load_plugin(quiet) is quiet


def test_one_that_ships_with_jobq_is_looked_at_where_its_library_is(
    packages: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = BuiltIn("idle", "samples_plugins:Idle", ("no_such_library",), ("NO_SUCH_VARIABLE",))
    monkeypatch.setattr(finding, "BUILT_IN", (built_in,))
    (it,) = find_plugins(PluginChoice())
    assert it.why_inactive == "no_such_library is not imported, NO_SUCH_VARIABLE is not set"
    assert it.plugin is None
    monkeypatch.setenv("NO_SUCH_VARIABLE", "1")
    (it,) = find_plugins(PluginChoice())
    assert isinstance(it.plugin, Idle)
    (it,) = find_plugins(PluginChoice((), ("idle",)))
    assert it.why_inactive == "--no-plugin idle"


def test_settings_carry_the_plugins() -> None:
    settings = Settings(Address(), "w", ("q",), 1, 2, plugins=("a:B",), no_plugins=("all",))
    assert Settings.from_json(settings.to_json()) == settings
    assert settings.wanted_plugins == PluginChoice(("a:B",), ("all",))
    assert settings.worker_info.slots == 2


# -- calls -------------------------------------------------------------------------------------------------------------


class Listed(Plugin):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def process_start(self) -> None:
        self.seen.append(f"{self.name} starts")

    def process_stop(self) -> None:
        self.seen.append(f"{self.name} stops")

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        self.seen.append(f"{self.name} before")
        value = call_next()
        self.seen.append(f"{self.name} after")
        return value


def test_the_first_plugin_is_the_outermost() -> None:
    seen: list[str] = []
    plugins = Plugins([Listed("a", seen), Listed("b", seen)])
    plugins.call("process_start")
    assert plugins.around(job(), lambda: seen.append("runs") or 7) == 7  # type: ignore[func-returns-value]
    plugins.call("process_stop")
    inside = ["a before", "b before", "runs", "b after", "a after"]
    assert seen == ["a starts", "b starts", *inside, "b stops", "a stops"]


def test_what_is_not_overridden_is_not_called() -> None:
    plugins = Plugins([Doubler(), Idle()])
    assert [method for method in METHODS if plugins.has(method)] == ["around_job"]
    assert plugins.around(job(), lambda: 4) == 8


def test_what_a_plugin_raises_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    plugins = Plugins([Raiser(), Listed("b", seen)])
    with caplog.at_level(logging.ERROR, "jobqueue.plugins"):
        plugins.call("process_start")
        plugins.call("job_ended", job(), JobEnd("finished"))
        plugins.call("job_ended", job(), JobEnd("finished"))
    assert seen == ["b starts"]
    first, second, _ = (record.getMessage() for record in caplog.records)
    assert first.startswith("plugin samples_plugins:Raiser: process_start failed: ValueError: I raise (")
    assert "samples_plugins.py:" in first
    assert second.startswith("plugin samples_plugins:Raiser: job_ended of job 1 failed: ValueError: I raise")
    assert "Traceback" not in caplog.text
    plugins.with_traceback = True
    plugins.call("process_stop")
    assert "Traceback" in caplog.text


class Unprintable(Plugin):
    def process_start(self) -> None:
        class Bad(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        raise Bad


def test_an_exception_that_cannot_be_printed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Plugins([Unprintable()]).call("process_start")
    assert "Unprintable: process_start failed: Bad" in caplog.text


def test_exceptions_of_ours_pass() -> None:
    class Ours(BaseException):
        pass

    class Interrupted(Plugin):
        def process_start(self) -> None:
            raise Ours

    plugins = Plugins([Interrupted()])
    plugins.passing = (Ours,)
    with pytest.raises(Ours):
        plugins.call("process_start")


def test_a_plugin_has_the_name_of_its_class_unless_it_says_another() -> None:
    assert name_of(Idle()) == "samples_plugins:Idle"
    assert name_of(Listed("mine", [])) == "mine"


# -- around a job ------------------------------------------------------------------------------------------------------


def run(data: bytes, *plugins: Plugin) -> Any:
    """Run a job inside of plugins, as a slot does."""
    runner = Runner(Settings(Address(), "w", ("q",), 1, 1, modules=("samples",)))
    wrap_calls(runner, Plugins(plugins))
    known = job()
    token = running_job.set(known)
    try:
        return runner.run(data, lambda: None), known
    finally:
        running_job.reset(token)


def test_a_job_runs_inside_of_plugins() -> None:
    ending, known = run(b'["samples.ok", null, [4], {}]', Doubler(), Doubler())
    assert (ending.kind, ending.value) == (RETURNED, 16)
    assert (known.task, known.args, known.kwargs) == ("samples.ok", [4], {})


def test_what_around_job_raises_fails_the_job() -> None:
    ending, _ = run(b'["samples.ok", null, [4], {}]', Doubler(), Refuser())
    text = decode_text(ending.payload)
    assert ending.kind == RAISED
    assert text.strip().endswith("PermissionError: not today")
    assert "samples_plugins.py" in text
    assert "runner.py" not in text


def test_the_traceback_of_a_job_begins_in_its_own_code() -> None:
    plain, _ = run(b'["samples.fail", null, [], {}]')
    inside, _ = run(b'["samples.fail", null, [], {}]', Doubler(), Doubler())
    assert decode_text(inside.payload) == decode_text(plain.payload)


def test_without_plugins_a_runner_is_as_before() -> None:
    runner = Runner(Settings(Address(), "w", ("q",), 1, 1))
    before = runner.call
    wrap_calls(runner, Plugins([Tagger.__mro__[1]()]))
    assert runner.call is before


def test_fields_are_read_once() -> None:
    asked: list[tuple[str, ...]] = []

    def hmget(key: str, names: list[str]) -> list[bytes | None]:
        asked.append((key, *names))
        return [name.encode() for name in names]

    known = RunningJob("1", "q", "w", Mock(hmget=hmget))
    assert known.fields("a", "b") == (b"a", b"b")
    assert known.fields("b", "c") == (b"b", b"c")
    assert asked == [(keys.job("1"), "a", "b"), (keys.job("1"), "c")]


# -- producers ---------------------------------------------------------------------------------------------------------


class Fields(Plugin):
    def __init__(self) -> None:
        self.seen: list[tuple[str, list[Any], int]] = []

    def before_enqueue(self, job: NewJob) -> None:
        self.seen.append((job.task, list(job.args), job.count))
        job.fields |= {"mine": b"1", "data": b"nothing", "status": b"odd"}


def test_each_way_to_enqueue_tells_plugins_and_takes_fields(store: redis.Redis) -> None:
    from datetime import timedelta

    fields = Fields()
    queue = Queue(connection=store, plugins=[fields])
    jobs = [
        queue.enqueue("samples.ok", 1),
        queue.enqueue("samples.ok", 1, result_ttl=7),
        queue.enqueue("samples.ok", 1, job_id="own"),
        queue.enqueue_in(timedelta(minutes=1), "samples.ok", 1),
        queue.enqueue_job(queue.create_job("samples.ok", (1,))),
        *queue.enqueue_many("samples.ok", [1, 1, 1]),
    ]
    assert fields.seen == [("samples.ok", [1], 1)] * 5 + [("samples.ok", [1], 3)] * 3
    for made in jobs:
        stored = store.hgetall(keys.job(made.id))
        assert stored[b"mine"] == b"1", made
        assert stored[b"data"] != b"nothing"
        assert stored[b"status"] != b"odd"


def test_an_error_in_before_enqueue_does_not_keep_a_job_back(
    store: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(connection=store, plugins=["samples_plugins:Raiser"])
    assert queue.enqueue("samples.ok", 1).id
    assert len(queue) == 1
    assert "plugin samples_plugins:Raiser: before_enqueue of job" in caplog.text


class NoText:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Odd(Plugin):
    """Leaves something in job.fields that cannot be sent."""

    def __init__(self, leave: Callable[[NewJob], object]) -> None:
        self._leave = leave

    def before_enqueue(self, job: NewJob) -> None:
        job.fields["good"] = 1  # type: ignore[assignment]
        self._leave(job)


@pytest.mark.parametrize(
    "leave",
    [
        lambda job: job.fields.update({5: b"x"}),
        lambda job: job.fields.update({None: b"x"}),
        lambda job: job.fields.update({"\ud800": b"x"}),
        lambda job: job.fields.update({"a": "\ud800"}),
        lambda job: job.fields.update({"a": NoText()}),
        lambda job: setattr(job, "fields", None),
        lambda job: delattr(job, "fields"),
    ],
)
def test_a_field_that_cannot_be_sent_does_not_keep_a_job_back(
    leave: Callable[[NewJob], object], store: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(connection=store, plugins=[Odd(leave)])
    jobs = [
        queue.enqueue("samples.ok", 1),
        queue.enqueue("samples.ok", 1, job_id="mine"),
        *queue.enqueue_many("samples.ok", [1]),
    ]
    assert len(queue) == 3
    assert caplog.text.count("plugin test_plugin_calls:Odd: before_enqueue") == 3
    if "fields" not in caplog.text:
        assert {store.hget(keys.job(job.id), "good") for job in jobs} == {b"1"}


def test_a_queue_takes_the_plugins_of_the_process(
    store: redis.Redis, packages: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAG", "red")
    packages.append(("tagger", "samples_plugins:Tagger"))
    made = Queue(connection=store).enqueue("samples.ok", 1)
    none = Queue(connection=store, plugins=[]).enqueue("samples.ok", 1)
    assert store.hget(keys.job(made.id), "tag") == b"red"
    assert store.hget(keys.job(none.id), "tag") is None
    producer._of_process.cache_clear()


def test_a_queue_says_what_is_wrong_with_its_plugins(store: redis.Redis) -> None:
    with pytest.raises(BadType, match="plugins is a list"):
        Queue(connection=store, plugins="samples_plugins:Tagger")
    with pytest.raises(UsageError, match="has no Nope"):
        Queue(connection=store, plugins=["samples_plugins:Nope"]).enqueue("samples.ok", 1)


def test_fields_that_are_taken_stay() -> None:
    new = NewJob("1", "q", lambda: ("f", (), {}))
    assert announce(Plugins([Fields()]), [new], {"mine": b"0"}) == {}


def test_without_plugins_nothing_of_theirs_is_called() -> None:
    """Not one Python call more per job."""
    runner = Runner(Settings(Address(), "w", ("q",), 1, 1, modules=("samples",)))
    wrap_calls(runner, Plugins())
    called: list[str] = []
    page = Mock(revoked=False)
    page.is_stale.return_value = False
    consumer = Mock()
    consumer.is_doubtful.return_value = consumer.finish.return_value = False
    parts = SlotParts(runner._settings, "w:0.1", page, consumer, Mock(), Usage(1, on=False), Mock(), Mock())
    slot = Slot(0, parts, runner, lambda job_id: Mock(settled_by_rq=False))
    slot.bind()
    work = Claimed("1", 1, "default", b'["samples.ok", null, [4], {}]', None, None, None, 0)
    slot.take(work)
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_filename) if event == "call" else None)
    try:
        slot.take(work)
    finally:
        sys.setprofile(None)
    assert any(name.endswith("runner.py") for name in called)
    assert not [name for name in called if name != __file__ and "plugin" in name.partition(str(ROOT))[2]]
