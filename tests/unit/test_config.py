"""The order in which the store's URL and the local store's directory are looked up."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from jobqueue.errors import StoreError
from jobqueue.store import config

ALL = {"JOBQ_URL": "redis://a", "REDIS_URL": "redis://b", "RQ_REDIS_URL": "redis://c"}


@pytest.mark.parametrize(
    ("url", "env", "found"),
    [
        ("redis://flag", ALL, ("redis://flag", "--url")),
        (None, ALL, ("redis://a", "JOBQ_URL")),
        (None, ALL | {"JOBQ_URL": ""}, ("redis://b", "REDIS_URL")),
        (None, ALL | {"JOBQ_URL": " ", "REDIS_URL": ""}, ("redis://c", "RQ_REDIS_URL")),
        ("", {"RQ_REDIS_URL": " redis://c\n"}, ("redis://c", "RQ_REDIS_URL")),
        ("", {}, (None, "local")),
        (None, {"REDIS_HOST": "x"}, (None, "local")),
    ],
)
def test_the_url_comes_from_the_flag_then_the_environment(
    url: str | None, env: dict[str, str], found: tuple[str | None, str]
) -> None:
    assert config.resolve_url(url, env) == found


def test_the_environment_is_read_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBQ_URL", "redis://later")
    assert config.resolve_url(None) == ("redis://later", "JOBQ_URL")


def test_home_is_what_jobq_home_says_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert config.home({"JOBQ_HOME": "/x/y"}) == Path("/x/y")
    assert config.home({"JOBQ_HOME": "sub"}) == tmp_path / "sub"
    assert config.home({"JOBQ_HOME": "~/q"}) == tmp_path / "me" / "q"


def test_home_is_the_users_state_directory_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.home({}) == config.home({"JOBQ_HOME": ""}) == platformdirs.user_state_path("jobq", appauthor=False)


def test_a_missing_home_directory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_state_path", lambda *_, **__: Path("~/.local/state/jobq"))
    with pytest.raises(StoreError, match="set JOBQ_HOME"):
        config.home({})
