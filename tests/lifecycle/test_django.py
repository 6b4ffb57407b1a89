"""A real Django project: its jobs, its database connections, and a project that was on django-rq."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis
from conftest import leave_properly
from helpers import ROOT, Server, Tree, assert_nothing_left, eventually, is_spawned, lines, status
from postgres import Postgres, why_missing

from jobqueue import Job, JobFailed
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

pytestmark = pytest.mark.skipif(
    find_spec("django") is None, reason="Django is not installed (extra: jobq[django]): its tests were not run"
)
DJANGO = int(version("django").partition(".")[0]) if find_spec("django") else 0
PROJECTS = ROOT / "tests"


class Project:
    """A copy of a project's files, and what its manage.py is told by the environment."""

    postgres: Postgres  # of a project that uses it

    def __init__(self, name: str, home: Path, server: Server, **env: str) -> None:
        self.home = home / "project"
        self.server = server
        shutil.copytree(PROJECTS / name, self.home, ignore=shutil.ignore_patterns("__pycache__"))
        self.env = {"SHOP_STORE": server.url, "SHOP_FILE": str(home / "db.sqlite3"), "PYTHONPATH": str(ROOT), **env}
        self.trees: list[Tree] = []

    def manage(self, *words: str) -> str:
        """Run manage.py from another directory; return what it prints on stdout."""
        command = [sys.executable, "-W", "ignore", str(self.home / "manage.py"), *words]
        done = subprocess.run(
            command, env={**os.environ, **self.env}, cwd="/", capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + (done.stderr if words[0] == "test" else "")

    def start(self, *words: str) -> Tree:
        self.trees.append(Tree(self.server.url, self.home, words, self.env, command=("manage",)))
        return self.trees[-1]


@pytest.fixture
def project(server: Server, tmp_path: Path) -> Iterator[Project]:
    made = Project("django_project", tmp_path, server)
    with sqlite3.connect(made.env["SHOP_FILE"]) as connection:
        connection.execute("CREATE TABLE shop_order (id INTEGER PRIMARY KEY, what TEXT)")
    connection.close()
    yield from ended(made)


def ended(project: Project) -> Iterator[Project]:
    """Stop what the test has started."""
    try:
        yield project
        leave_properly(project.trees)
        assert_nothing_left(project.trees, project.server.client)
    finally:
        for tree in project.trees:
            tree.destroy()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: the tests with PostgreSQL were not run")
    if why := why_missing():
        pytest.skip(why)
    server = Postgres()
    try:
        with server.connect() as connection:
            connection.execute("CREATE TABLE shop_order (id SERIAL PRIMARY KEY, what TEXT)")
        yield server
    finally:
        server.stop()


@pytest.fixture
def on_postgres(server: Server, tmp_path: Path, postgres: Postgres) -> Iterator[Project]:
    made = Project("django_project", tmp_path, server, SHOP_DB=postgres.host, SHOP_DB_USER=postgres.user)
    made.postgres = postgres
    yield from ended(made)


def test_the_projects_own_tests(project: Project) -> None:
    """Transactions, settings and commands: in one process of Django's."""
    said = project.manage("test", "shop.tests")
    assert "OK" in said, said


WORKERS = {
    "thread": ("jobq", "worker", "--mode", "thread", "-n", "1"),
    "process": ("jobq", "worker", "-n", "1"),
    "SimpleWorker": ("work", "jobqueue.rq.SimpleWorker"),
    "Worker": ("work", "jobqueue.rq.Worker"),
}


@pytest.mark.parametrize(("worker", "age"), [*((worker, "None") for worker in WORKERS), ("process", "0")])
def test_a_connection_that_the_server_closed_fails_no_job(
    on_postgres: Project, queue: Queue, worker: str, age: str
) -> None:
    """With CONN_MAX_AGE None a connection stays open between jobs; a coroutine's is another thread's. The import of the
    module opens one too, and children are forked all the same."""
    on_postgres.env["SHOP_DB_AGE"] = age
    on_postgres.start(*WORKERS[worker])
    pids = set()
    for _ in range(2):
        count, pid, process = queue.enqueue("shop.tasks.count").result(60)
        assert queue.enqueue("shop.tasks.acount").result(20) == count
        assert not is_spawned(process)
        pids.add(pid)
        closed = on_postgres.postgres.close_all_connections()
        assert closed == 2 if age == "None" else closed <= 1
    assert len(pids) == 2


def test_a_job_that_leaves_a_transaction_open_harms_no_other(on_postgres: Project, queue: Queue) -> None:
    tree = on_postgres.start(*WORKERS["thread"])
    queue.enqueue("shop.tasks.leave_open").result(60)
    assert queue.enqueue("shop.tasks.order", "tea").result(20)
    with on_postgres.postgres.connect() as connection:
        assert connection.execute("SELECT count(*) FROM shop_order").fetchone() == (1,)
    assert "left a transaction open on database 'default'" in tree.log


def test_a_worker_runs_what_the_installed_apps_have(project: Project, queue: Queue) -> None:
    """A worker serves the modules of the apps, and nothing else."""
    order = project.manage("jobq", "submit", "shop.tasks:order", "tea").strip()
    other = queue.enqueue("os.getpid")
    assert project.start("jobq", "worker", "-b", "-n", "2").wait() == 0
    assert Job.fetch(order, connection=queue.connection).result(1) == 1
    with pytest.raises(JobFailed, match="does not serve os"):
        other.result(1)


def test_jobq_worker_sets_django_up_too(project: Project, queue: Queue) -> None:
    """It imports the settings that DJANGO_SETTINGS_MODULE names, from the current directory."""
    job = queue.enqueue("shop.tasks.count")
    env = {**project.env, "DJANGO_SETTINGS_MODULE": "config"}
    flags = ["-b", "--mode", "thread", "-n", "1", "-I", "shop.tasks"]
    project.trees.append(Tree(project.server.url, project.home, flags, env))
    assert project.trees[0].wait() == 0
    assert job.result(1)[0] == 0


@pytest.mark.skipif(DJANGO < 6, reason=f"Django {DJANGO} is installed, and django.tasks came with Django 6")
def test_the_backend_of_django_tasks(project: Project) -> None:
    said = project.manage("test", "shop.backend_tests")
    assert "OK" in said, said


@pytest.mark.skipif(DJANGO < 6, reason=f"Django {DJANGO} is installed, and django.tasks came with Django 6")
def test_tasks_of_django_run_in_the_order_of_their_priorities(
    project: Project, tmp_path: Path, store: redis.Redis, mode: str
) -> None:
    ranked = project.env["RANKED"] = str(tmp_path / "ranked")
    tasks = "from shop.backend_tasks import fails, hold, ranked\n"
    held = project.manage("shell", "-v", "0", "-c", f"{tasks}print(hold.enqueue().id)").strip()
    project.start("jobq", "worker", "-b", "-n", "1", "--mode", mode, "-I", "shop.backend_tasks")
    eventually(lambda: status(store, held) == "started")
    code = f"{tasks}for n in (0, -10, 10, 60, -100, 0, 50): ranked.using(priority=n).enqueue(f'{{n}}')\n"
    failed = project.manage("shell", "-v", "0", "-c", f"{code}print(fails.enqueue().id)").strip()
    Path(f"{ranked}.go").touch()
    assert project.trees[0].wait() == 0
    assert lines(ranked) == ["60", "50", "10", "0", "0", "-10", "-100"]
    code = f"{tasks}print(fails.get_result('{failed}').errors[0].exception_class_path)"
    assert project.manage("shell", "-v", "0", "-c", code).strip() == "shop.models.Order.DoesNotExist"


@pytest.mark.parametrize("imports", ["of django-rq", "renamed"])
def test_a_project_on_django_rq_runs_its_jobs(server: Server, tmp_path: Path, store: redis.Redis, imports: str) -> None:
    """It changes the app's name, and the command of the worker; with its imports of django-rq, or with ours."""
    if find_spec("django_rq") is None:
        pytest.skip("django-rq is not installed: a project on it was not run")
    project = Project("django_rq_project", tmp_path, server)
    changed = ["config.py"] if imports == "of django-rq" else ["config.py", "polls/tasks.py", "polls/views.py"]
    for name in changed:
        path = project.home / name
        path.write_text(re.sub(r"import django_rq\b", "import jobqueue.django as django_rq", path.read_text()))
        path.write_text(re.sub(r'from django_rq\b|"django_rq"', _renamed, path.read_text()))
    code = "from django.test import Client; print(Client().get('/vote/').json())"
    said = ast.literal_eval(project.manage("shell", "-v", "0", "-c", code))
    assert said["waiting"] == 1  # the one that does not wait for the commit
    assert store.llen(keys.queue("default")) == 3
    mode = "thread" if imports == "renamed" else "process"
    assert project.start("jobq", "worker", "-b", "-n", "2", "--mode", mode, "high", "default", "low").wait() == 0
    found = {job.func_name: job for job in map(partial(Job.fetch, connection=store), ids(store))}
    assert found["polls.tasks.urgent"].result(1) in ({"a", "b"}, {"c"})
    assert found["polls.tasks.long_running_func"].result(1).month == 1
    if imports == "renamed":
        assert found["polls.tasks.long_running_func"].result_ttl == 800
    assert found["polls.tasks.fail"].get_status() == "failed"
    assert (tmp_path / "db.sqlite3.noted").read_text() == "polls.tasks.fail LookupError\n"
    assert (store.zcard(keys.registry("finished", "default")), store.zcard(keys.registry("finished", "high"))) == (3, 2)
    leave_properly(project.trees)
    assert_nothing_left(project.trees, store)


def _renamed(found: re.Match[str]) -> str:
    return found[0].replace("django_rq", "jobqueue.django")


def ids(store: redis.Redis) -> list[str]:
    return [
        key.decode().removeprefix(keys.job(""))
        for key in store.keys(keys.job("*"))
        if b":" not in key[len(keys.job("")) :]
    ]
