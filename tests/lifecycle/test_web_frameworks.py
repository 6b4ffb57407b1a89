"""The programs of docs/flask.md and docs/fastapi.md work as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Start
from helpers import ROOT, Server, program_path

FLASK_CLIENT = """
import time
from web import create_app
client = create_app().test_client()
reply = client.post("/greetings/Ann")
assert reply.status_code == 202, reply.text
job_id = reply.json["id"]
deadline = time.monotonic() + 30
while (seen := client.get(f"/greetings/{job_id}").json)["status"] != "finished":
    assert time.monotonic() < deadline, seen
    time.sleep(0.05)
assert client.get("/greetings/nowhere").status_code == 404
print(seen["result"])
"""
FASTAPI_CLIENT = """
import json
from fastapi.testclient import TestClient
from api import app
with TestClient(app) as client:
    reply = client.post("/reports", params={"rows": 4})
    assert reply.status_code == 202, reply.text
    job_id = reply.json()["id"]
    reply = client.get(f"/reports/{job_id}/progress")
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line]
    assert client.get(f"/reports/{job_id}").json() == events[-1]
    assert client.get("/reports/nowhere").status_code == 404
print(json.dumps(events))
"""


def save_programs(page: str, directory: Path) -> None:
    """Save each Python block of the page under the name in its first line."""
    for block in re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, block
        (directory / name[1]).write_text(block)


def run(program: str, directory: Path, server: Server) -> str:
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=directory, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_job_has_its_own_context_of_the_flask_app(start: Start, server: Server, tmp_path: Path, mode: str) -> None:
    pytest.importorskip("flask")
    save_programs("flask.md", tmp_path)
    tree = start("-n", "2", "--plugin", "app_context:AppContext", mode=mode, serve=("tasks",))
    assert run(FLASK_CLIENT, tmp_path, server) == "Hello, Ann!"
    assert tree.stop() == 0


def test_fastapi_sends_the_progress_of_a_job(start: Start, server: Server, tmp_path: Path, mode: str) -> None:
    pytest.importorskip("fastapi")
    save_programs("fastapi.md", tmp_path)
    tree = start("-n", "1", mode=mode, serve=("tasks",))
    events = json.loads(run(FASTAPI_CLIENT, tmp_path, server))
    assert events[-1] == {"status": "finished", "progress": 100, "result": {"rows": 4}}
    told = [event["progress"] for event in events]
    assert told == sorted(told)
    assert len(set(told)) > 2
    assert tree.stop() == 0
