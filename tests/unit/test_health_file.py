"""The health file is written as a whole, about once a second; the probe looks at its age."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobqueue.cli import main
from jobqueue.cli.worker import worker_health
from jobqueue.workers.supervisor.health import Health


def report(path: Path) -> dict[str, object]:
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def ask(path: Path, *flags: str) -> tuple[int, str]:
    result = CliRunner().invoke(worker_health, [str(path), *flags])
    return result.exit_code, result.output.strip()


def test_the_content_of_the_health_file(tmp_path: Path) -> None:
    path = tmp_path / "health"
    health = Health(str(path))
    health.step(100.0, "")
    before = time.time()
    said = report(path)
    assert (said["able"], said["why"], said["pid"]) == (True, "able to claim", os.getpid())
    assert abs(float(str(said["time"])) - before) < 60
    health.step(101.0, "the store does not answer")
    assert (report(path)["able"], report(path)["why"]) == (False, "the store does not answer")
    assert [p.name for p in tmp_path.iterdir()] == ["health"]


def test_the_file_is_written_once_a_second_and_when_the_answer_changes(tmp_path: Path) -> None:
    path = tmp_path / "health"
    health = Health(str(path))
    health.step(100.0, "")
    path.unlink()
    for now in (100.1, 100.9):
        health.step(now, "")
    assert not path.exists()
    health.step(101.0, "")
    assert report(path)["able"]
    health.step(101.1, "the store does not answer")
    assert not report(path)["able"]


def test_a_deleted_directory_does_not_end_the_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "place"
    health = Health(str(place / "health"))
    for now in (100.0, 101.0):
        health.step(now, "")
    assert caplog.text.count("cannot be written: No such file or directory") == 1
    place.mkdir()
    health.step(102.0, "")
    assert report(place / "health")["able"]


def test_a_health_file_that_cannot_be_written_is_refused_at_start() -> None:
    result = CliRunner().invoke(main, ["worker", "--health-file", "/nowhere/health"])
    assert result.exit_code == 2
    assert "there is no directory /nowhere that we may write to" in result.output


def test_the_file_is_deleted_when_the_worker_ends(tmp_path: Path) -> None:
    path = tmp_path / "health"
    health = Health(str(path))
    health.step(100.0, "")
    health.remove()
    assert not path.exists()
    health.remove()


def test_without_a_health_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    health = Health("")
    health.step(100.0, "")
    health.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_probe_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "health"
    Health(str(path)).step(100.0, "")
    assert ask(path) == (0, "able to claim")
    Health(str(path)).step(100.0, "it has no child")
    assert ask(path) == (1, "it has no child")


def test_the_probe_rejects_a_stale_file(tmp_path: Path) -> None:
    """A stale file means that the worker hangs or was killed: its last content is not valid any more."""
    path = tmp_path / "health"
    path.write_text(json.dumps({"time": time.time() - 60, "able": True, "why": "able to claim", "pid": 1}))
    code, said = ask(path)
    assert code == 1
    assert said.startswith("the worker has said nothing for 6")
    assert ask(path, "--max-age", "3600") == (0, "able to claim")


@pytest.mark.parametrize("text", [None, "", "{", "[]", "1", '{"time": 1}', '{"time": "x", "able": true, "why": "x"}'])
def test_the_probe_rejects_a_missing_file(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "health"
    if text is not None:
        path.write_text(text)
    code, said = ask(path)
    assert code == 1
    assert said == f"{path} is not a health file: is the worker running with --health-file {path}?"
