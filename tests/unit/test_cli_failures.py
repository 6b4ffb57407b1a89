"""Problems of the environment give one line and an exit code: closed streams, full disks, limits, wrong files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Server, eventually, program_path

from jobqueue.protocol import keys
from jobqueue.store.address import Address
from jobqueue.store.connection import redis
from jobqueue.store.error_texts import explain


def shell(line: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``line`` in a shell where JOBQ is the command; a traceback fails the test."""
    names = {**os.environ, "PYTHONPATH": program_path(ROOT), "JOBQ": f"{sys.executable} -m jobqueue.cli", **env}
    done = subprocess.run(["bash", "-c", line], cwd=cwd, env=names, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def says(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that the command printed one line of ours, after the line on the store, and ended with an error."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("jobq: ")]
    assert len(lines) == 1, done.stderr
    assert done.returncode in (1, 2)
    for word in words:
        assert word in lines[0]


# -- the standard streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["submit square 2", "store status"])
def test_a_closed_stdout_is_reported_before_anything_is_done(
    server: Server, store: redis.Redis, tmp_path: Path, command: str
) -> None:
    """A closed stdout is found first: otherwise the ids would be lost, or a socket would get stdout's number."""
    says(shell(f"$JOBQ {command} >&-", tmp_path, JOBQ_URL=server.url), "stdout is closed")
    assert store.keys() == []


@pytest.mark.parametrize("streams", ["2>&- <&-", "2>/dev/full"])
def test_closed_or_full_stderr_and_stdin_do_not_matter(
    server: Server, store: redis.Redis, tmp_path: Path, streams: str
) -> None:
    done = shell(f"$JOBQ submit square 2 {streams}", tmp_path, JOBQ_URL=server.url)
    assert done.returncode == 0
    assert store.lrange(keys.queue("default"), 0, -1) == [done.stdout.strip().encode()]
    assert shell(f"$JOBQ submit nosuch 2 {streams}", tmp_path, JOBQ_URL=server.url).returncode == 2


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&- <&-", "2>/dev/full", ">/dev/full"])
def test_a_worker_runs_without_standard_streams(
    server: Server, store: redis.Redis, tmp_path: Path, streams: str
) -> None:
    job_id = shell("$JOBQ submit square 2", tmp_path, JOBQ_URL=server.url).stdout.strip()
    done = shell(f"$JOBQ worker --burst -n 1 {streams}", tmp_path, JOBQ_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert store.hget(keys.job(job_id), "status") == b"finished"


def test_a_closed_stdin_is_an_error_and_not_an_empty_file(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    says(shell("$JOBQ submit square -f - <&-", tmp_path, JOBQ_URL=server.url), "stdin is closed")


@pytest.mark.parametrize("command", ["submit square 2", "--help", "store status"])
def test_a_full_disk_under_the_output_is_one_line(server: Server, tmp_path: Path, command: str) -> None:
    says(
        shell(f"$JOBQ {command} >/dev/full", tmp_path, JOBQ_URL=server.url), "the output could not be written", "space"
    )


@pytest.mark.parametrize("command", ["--help", "submit square 1 2 3", "waiting"])
def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(server: Server, tmp_path: Path, command: str) -> None:
    done = shell(f"$JOBQ {command} | head -0; exit ${{PIPESTATUS[0]}}", tmp_path, JOBQ_URL=server.url)
    assert done.returncode in (0, 1)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("store: ")]
    assert all("3 jobs were enqueued" in line for line in lines)
    assert len(lines) == (done.returncode if command.startswith("submit") else 0)


@pytest.mark.parametrize(("command", "what"), [("square 1", "1 job was"), ("square 1 2 3", "3 jobs were")])
def test_a_submit_whose_output_fails_reports_which_jobs_are_enqueued(
    server: Server, store: redis.Redis, tmp_path: Path, command: str, what: str
) -> None:
    done = shell(f"$JOBQ submit {command} >/dev/full", tmp_path, JOBQ_URL=server.url)
    says(done, "the output could not be written", what, "enqueued", "and no more")
    ids = [job_id.decode() for job_id in store.lrange(keys.queue("default"), 0, -1)]
    assert ids[0] in done.stderr
    assert ids[-1] in done.stderr


def test_a_submit_whose_reader_leaves_reports_which_jobs_are_enqueued(
    server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    line = "seq 1 20000 | $JOBQ submit square -f - | head -1; exit ${PIPESTATUS[1]}"
    done = shell(line, tmp_path, JOBQ_URL=server.url)
    says(done, f"{store.llen(keys.queue('default')):,} jobs were enqueued", "and no more")


def test_a_store_that_becomes_full_during_a_submit_is_reported(
    server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    argv = [sys.executable, "-m", "jobqueue.cli", "submit", "square", "-f", "-", "--url", server.url]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("1\n2\n")
        process.stdin.flush()
        first, second = process.stdout.readline().strip(), process.stdout.readline().strip()
        store.config_set("maxmemory", 1)
        try:
            process.stdin.write("3\n")
            process.stdin.close()
            said = process.stderr.read()
            assert process.wait() == 1
        finally:
            store.config_set("maxmemory", 0)
    assert (
        "is full (its maxmemory is reached) and takes no more jobs; "
        f"2 jobs were enqueued ({first} to {second}), and no more." in said
    )
    assert "user_script" not in said


def test_a_full_disk_of_the_store_is_explained() -> None:
    raw = "MISCONF Errors writing to the AOF file: No space left on device script: 0a1b, on @user_script:41."
    said = str(explain(redis.ResponseError(raw), Address(url="redis://127.0.0.1:1")))
    assert said.endswith("cannot write to its disk, and takes nothing until it can: No space left on device")
    assert "script" not in str(
        explain(redis.ResponseError("ERR odd script: 0a1b, on @user_script:4."), Address(url="redis://127.0.0.1:1"))
    )


# -- the local store's directory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s", "lock", "lease", "alive", "server.conf", "server.log", "store"])
def test_a_directory_in_place_of_a_file_is_one_line(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    if name == "store":
        (home / name).write_text("")
    else:
        (home / name / "x").mkdir(parents=True)
    says(shell("$JOBQ submit square 2", tmp_path, JOBQ_HOME=str(home), JOBQ_URL=""), str(home / name), "JOBQ_HOME")


def test_a_full_disk_when_the_store_starts_is_not_taken_for_the_output(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "server.conf").symlink_to("/dev/full")
    for command in ("submit square 2", "worker --burst"):
        done = shell(f"$JOBQ {command}", tmp_path, JOBQ_HOME=str(home), JOBQ_URL="")
        says(done, f"no space left for the local store in {home}")


@pytest.mark.parametrize("home", ["~nosuchuser/x", "/dev/null/x"])
def test_a_store_directory_that_cannot_be_made_is_one_line(tmp_path: Path, home: str) -> None:
    for command in ("submit square 2", "store start"):
        says(shell(f"$JOBQ {command}", tmp_path, JOBQ_HOME=home, JOBQ_URL=""), home)


@pytest.mark.parametrize("limit", ["-n 9", "-f 0"])
def test_limits_of_the_shell_give_one_line(tmp_path: Path, limit: str) -> None:
    done = shell(f"ulimit {limit}; $JOBQ submit square 2", tmp_path, JOBQ_HOME=str(tmp_path / "home"), JOBQ_URL="")
    says(done)
    assert "no Redis server of version" not in done.stderr


# -- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(3)",
        "import os; os._exit(0)",
        "raise SystemExit('a\\nb')",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
        "raise KeyboardInterrupt",
    ],
)
def test_a_module_that_ends_the_process_during_its_check_is_named(server: Server, tmp_path: Path, text: str) -> None:
    (tmp_path / "leaving.py").write_text(text)
    done = shell("$JOBQ worker --check -I leaving", tmp_path, JOBQ_URL=server.url)
    says(done, "a served module cannot be imported: ")
    assert done.returncode == 2


def test_a_modules_error_that_cannot_be_printed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "silent.py").write_text("class E(Exception):\n    def __str__(self): raise ValueError\nraise E")
    says(shell("$JOBQ submit silent:f 1", tmp_path, JOBQ_URL=server.url), "'silent' cannot be imported: silent.E")


@pytest.mark.parametrize("flags", ["-n 99999999999999999999", "-n 100000 --mode thread"])
def test_more_children_or_slots_than_possible_are_refused(server: Server, tmp_path: Path, flags: str) -> None:
    done = shell(f"$JOBQ worker --check {flags}", tmp_path, JOBQ_URL=server.url)
    says(done)
    assert done.returncode == 2


def test_too_low_a_limit_of_open_files_is_explained(server: Server, tmp_path: Path) -> None:
    done = shell("ulimit -n 60; $JOBQ worker --burst -n 100", tmp_path, JOBQ_URL=server.url)
    says(done, "100 processes need 348 open files", "the limit is 60 (ulimit -n): give -n 4 at most")


def test_too_low_a_limit_of_threads_is_explained(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    shell("$JOBQ submit sleep 0.3 0.3 0.3", tmp_path, JOBQ_URL=server.url)
    line = "ulimit -v 500000; timeout 20 $JOBQ worker --burst --mode thread -n 300"
    done = shell(line, tmp_path, JOBQ_URL=server.url)
    assert "the system starts no more threads: give fewer (-n, --threads)" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [("-I os:nope", "-I os:nope: os has no function nope"), ("-I 1a", "'1a' is not a module's name")],
)
def test_names_of_served_modules_that_are_wrong_are_refused(
    server: Server, tmp_path: Path, flags: str, words: str
) -> None:
    done = shell(f"$JOBQ worker --check {flags}", tmp_path, JOBQ_URL=server.url)
    says(done, words)
    assert "<string>" not in done.stderr
    assert "site-packages" not in done.stderr


# -- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "a*"])
def test_a_key_prefix_that_rq_refuses_is_one_line(server: Server, tmp_path: Path, prefix: str) -> None:
    for command in ("submit square 2", "worker --burst"):
        done = shell(f"$JOBQ {command}", tmp_path, JOBQ_URL=server.url, RQ_KEY_PREFIX=prefix)
        says(done, "Invalid RQ_KEY_PREFIX", "unset the variable")
        assert done.returncode == 2


def test_a_current_directory_that_was_deleted_is_one_line(server: Server, tmp_path: Path) -> None:
    done = shell("mkdir gone; cd gone; rmdir ../gone; $JOBQ submit mytasks:f 2", tmp_path, JOBQ_URL=server.url)
    says(done, "the current directory is not there any more")


@pytest.mark.parametrize("url", ["unix:///dev/null", "unix:///tmp"])
def test_a_path_that_is_no_socket_is_one_line(tmp_path: Path, url: str) -> None:
    for command in ("info", "worker --store-wait 0 --burst"):
        says(shell(f"$JOBQ {command}", tmp_path, JOBQ_URL=url), url)


@pytest.mark.parametrize("file", [".", "/proc/self/mem", "/bin/true"])
def test_files_that_cannot_be_read_are_one_line(server: Server, store: redis.Redis, tmp_path: Path, file: str) -> None:
    done = shell(f"$JOBQ submit square -f {file}", tmp_path, JOBQ_URL=server.url)
    says(done)
    assert done.returncode == 2
    assert store.keys() == []
    eventually(lambda: store.info("clients")["connected_clients"] == 1)


# -- modules that cannot be imported ---------------------------------------------------------------------------------

ENDS_BADLY = {
    "base": ("x = 1\nraise BaseException('no')", "BaseException: no", 2),
    "leaves": ("import os\nos._exit(0)", "SystemExit: 0", 2),
    "arguments": ("import argparse\n\nargparse.ArgumentParser().parse_args(['--odd'])", "SystemExit: 2", 3),
    "syntax": ("x = 1\n\ny = = 2", "SyntaxError: invalid syntax", 3),
    "shallow": (
        "import sys\nsys.setrecursionlimit(60)\ndef deep(n): return n and deep(n - 1)\ndeep(80)",
        "Recursion",
        0,
    ),
    "pathless": ("import sys\nsys.path.clear()\nraise ValueError('no')", "ValueError: no", 3),
}


@pytest.mark.parametrize("command", ["submit m_NAME:f 1", "compare m_NAME:f 1"])
@pytest.mark.parametrize("name", ENDS_BADLY)
def test_a_module_that_cannot_be_imported_is_named(
    server: Server, store: redis.Redis, tmp_path: Path, name: str, command: str
) -> None:
    code, words, line = ENDS_BADLY[name]
    (tmp_path / f"m_{name}.py").write_text(code + "\n")
    done = shell(f"$JOBQ {command.replace('NAME', name)}", tmp_path, JOBQ_URL=server.url)
    says(done, f"The module 'm_{name}' cannot be imported: ", words, f"m_{name}.py:{line or ''}")
    assert done.returncode == 2
    assert store.keys() == []


def test_a_module_that_changes_the_process_that_imports_it(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    code = "import sys\nsys.path.clear()\ntry: sys.setrecursionlimit(60)\nexcept RecursionError: pass\ndef f(x): pass\n"
    (tmp_path / "m_odd.py").write_text(code)
    assert shell("$JOBQ submit m_odd:f 1", tmp_path, JOBQ_URL=server.url).returncode == 0
    assert store.llen(keys.queue("default")) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-I m_arguments", "m_arguments.py:3"),
        ("-I shop.order", "-I shop.order: shop is a module and order is in it: give -I shop:order"),
        ("-I /nowhere/shop.py", "start in the directory of /nowhere/shop.py"),
        ("-I $PWD/shop.py", "-I takes a module's name: shop, not "),
        ("-S nope.Nope", "jobq: --serializer nope.Nope: "),
        ("--queue-class x.y", "jobq: --queue-class x.y: "),
    ],
)
def test_what_a_worker_cannot_import_is_named_with_a_hint(
    server: Server, tmp_path: Path, flags: str, words: str
) -> None:
    (tmp_path / "m_arguments.py").write_text(ENDS_BADLY["arguments"][0])
    (tmp_path / "shop.py").write_text("def order(): pass\n")
    done = shell(f"$JOBQ worker --check {flags}", tmp_path, JOBQ_URL=server.url)
    says(done, words)
    assert "served module" not in done.stderr or "m_arguments" in flags


def test_a_file_name_as_task_gets_a_hint(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    for command in ("submit", "compare"):
        done = shell(f"$JOBQ {command} shop/tasks.py:order 1", tmp_path, JOBQ_URL=server.url)
        says(done, "shop.tasks:order, not shop/tasks.py:order")
    assert store.keys() == []


# -- completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("submit -f my", "file,my"),
        ("submit square -f '' --file ", "file,"),
        ("compare --html r", "file,r"),
        ("worker --cron c", "file,c"),
        ("worker --health-file h", "file,h"),
        ("cron c", "file,c"),
        ("submit -q de", ""),
        ("submit --every 3", ""),
        ("submit --wait --time", "plain,--timeout"),
        ("submit -q '' --time", "plain,--timeout"),
        ("nosuch --x", ""),
        ("work", "plain,worker"),
    ],
)
def test_completion_writes_nothing_but_the_answer(tmp_path: Path, line: str, answer: str) -> None:
    words = f"jobq {line}"
    done = shell("$JOBQ", tmp_path, _JOBQ_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert done.stderr == ""
    assert (done.stdout.splitlines() or [""])[0] == answer
