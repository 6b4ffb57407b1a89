"""RQ's cron files are loaded in a separate process, which returns only data."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from jobqueue.producing import cronfile
from jobqueue.producing.cronfile import BadCronFile, entry_ids
from jobqueue.serializers import JSON, decompress

GOOD = """
from rq import cron
from jobqueue.tasks import square
print("the file's own words")
cron.register(square, "default", args=(3,), interval=60, name="three", job_timeout=7, result_ttl=9, ttl=8)
cron.register(square, "low", kwargs={"n": 4}, cron="*/5 * * * *", meta={"m": 1}, failure_ttl=11)
cron.register(square, "low", args=(5,), cron="*/5 * * * *")
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "entries.py"
    path.write_text(text)
    return str(path)


def test_the_entries_of_a_cron_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    three, four, five = cronfile.read(written(tmp_path, GOOD))
    assert (three.name, three.queue, three.timing.every, three.ttl) == ("three", "default", 60.0, 8)
    assert (three.fields["timeout"], three.fields["result_ttl"], three.fields["ttl"]) == (b"7", b"9", b"8")
    assert JSON.loads(decompress(three.fields["data"])) == ["jobqueue.tasks.square", None, [3], {}]
    assert (four.name, four.queue, four.timing.cron) == ("jobqueue.tasks.square", "low", "*/5 * * * *")
    assert (four.fields["meta"], four.fields["failure_ttl"], four.fields["result_ttl"]) == (b'{"m":1}', b"11", b"500")
    assert JSON.loads(decompress(five.fields["data"]))[2] == [5]
    assert len({three.id, four.id, five.id}) == 3
    assert three.source.endswith("entries.py")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "the file's own words\n")


def test_an_entry_has_the_same_id_everywhere() -> None:
    entries = [("a.b c", "q", 60, None), ("a.b c", "q", 60, None), ("a.b c", "r", 60, None)]
    ids = entry_ids(entries)
    assert ids == entry_ids(entries)
    assert len(set(ids)) == 3
    assert all(one.startswith("a-b-c-") for one in ids)


def test_arguments_that_json_cannot_carry_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("args=(3,)", "args=({3},)"))
    with pytest.raises(BadCronFile, match="--accept json,pickle"):
        cronfile.read(path)
    three, four, _ = cronfile.read(path, ("json", "pickle"))
    assert pickle.loads(decompress(three.fields["data"]))[2] == ({3},)
    assert JSON.loads(decompress(four.fields["data"]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "registers nothing"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("raise RuntimeError('one\\ntwo')", "one two"),
        ("import os; os._exit(3)", "left with 3"),
        ("raise SystemExit(4)", "left with 4"),
        (GOOD.replace("interval=60", "cron='61 * * * *'"), "square"),
        (GOOD.replace("interval=60", "interval=-60"), "give seconds from"),
        (GOOD.replace("interval=60, ", ""), "either interval or cron"),
        (GOOD.replace("from jobqueue.tasks import square", "def square(n): pass"), "cron file itself"),
        ("def", "SyntaxError|invalid syntax"),
        ("raise KeyboardInterrupt('no')", "KeyboardInterrupt: no"),
        ("class E(BaseException):\n  def __str__(self): raise self\nraise E", "E$"),
        (GOOD.replace('name="three"', "name='\\ud800'"), "name has only characters that can be printed: '\\\\ud800'"),
        (GOOD.replace('name="three"', "name=3"), "name is a text, not 3"),
        (GOOD.replace('square, "default"', "square, '\\ud800'"), "queue's name has only characters"),
        (GOOD.replace('meta={"m": 1}', "meta={'m': '\\ud800'}"), "not valid Unicode"),
        (GOOD.replace("args=(3,)", "args=('\\ud800',)"), "not valid Unicode"),
        (GOOD.replace('cron="*/5 * * * *", meta', "cron='\\ud800 * * * *', meta"), "not acceptable"),
    ],
)
def test_cron_files_that_cannot_be_loaded_are_refused_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    with pytest.raises(BadCronFile, match=sentence) as caught:
        cronfile.read(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err in ("", "the file's own words\n")
    assert "entries.py" in str(caught.value)


def test_a_cron_file_that_loads_for_long_is_named_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cron file waits for a gate, which opens after the second warning."""
    gate, warned = tmp_path / "gate", []
    text = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"

    def warn(*words: object) -> None:
        warned.append(words[1])
        if len(warned) == 2:
            gate.touch()

    monkeypatch.setattr(cronfile, "LONG", 0.05)
    monkeypatch.setattr(cronfile.log, "warning", warn)
    path = written(tmp_path, text + GOOD)
    assert len(cronfile.read(path)) == 3
    assert warned[:2] == [path, path]


@pytest.mark.parametrize(
    "text",
    [
        "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n",
        "import atexit, time\natexit.register(time.sleep, 3600)\n",
        "import os, time\nif os.fork() == 0:\n    time.sleep(40)\n    os._exit(0)\n",
    ],
    ids=["thread", "exit handler", "fork"],
)
def test_what_a_cron_file_leaves_behind_keeps_nobody(tmp_path: Path, text: str) -> None:
    began = time.monotonic()
    assert len(cronfile.read(written(tmp_path, text + GOOD))) == 3
    with pytest.raises(BadCronFile, match="left with 3 and said nothing"):
        cronfile.read(written(tmp_path, text + "raise SystemExit(3)\n"))
    assert time.monotonic() - began < 30  # none of the two waited


def test_a_missing_cron_file_is_refused() -> None:
    with pytest.raises(BadCronFile, match="not found"):
        cronfile.read("/no/such/file.py")
    with pytest.raises(BadCronFile, match="no_such_config"):
        cronfile.read("no_such_config.py")
