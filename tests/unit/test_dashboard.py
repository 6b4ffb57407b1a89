"""The Grafana dashboard and the documentation name metrics that exist, and all that exist are documented."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from test_store_metrics import FACTS, REGISTERED, read_all, record, register

from jobqueue.admin.demand import Demand
from jobqueue.metrics.store_metrics import StoreMetrics
from jobqueue.metrics.tree_metrics import TreeMetrics
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
DOCS = (ROOT / "docs/metrics.md").read_text()
PARTS = ("_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def existing() -> dict[str, set[str]]:
    """The names of all samples, and the labels of each."""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    Queue("q", client).enqueue("square", 1)
    register(client, "a")
    record(client, "t", 1, 0.1, waits=(1.5,), peak_kb=5)
    client.hset(keys.DEATHS, mapping={"process:SIGKILL": 3, "job:given_back": 5, "run:failed:KeyError": 1})
    names: dict[str, set[str]] = {}
    for collector in (
        StoreMetrics(client),
        TreeMetrics(lambda: FACTS, lambda: REGISTERED, lambda: {"q": Demand(5, 2, 1.5)}),
    ):
        for sample in read_all(collector):
            names.setdefault(sample.name, set()).update(sample.labels)
    names.setdefault("jobq_store_memory_bytes", set())  # fakeredis does not say
    names.setdefault("jobq_store_memory_limit_bytes", set())
    return names


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable.get("definition", "")


def named(text: str) -> set[str]:
    return set(re.findall(r"\bjobq_[a-z_]+", text))


def test_each_metric_of_the_dashboard_exists(existing: dict[str, set[str]]) -> None:
    used = set().union(*map(named, expressions()))
    assert len(used) > 15
    assert used <= existing.keys()


def test_the_labels_of_the_dashboard_exist(existing: dict[str, set[str]]) -> None:
    for expression in expressions():
        for name, labels in re.findall(r"(jobq_[a-z_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", labels)) <= existing[name], expression
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            all_labels = set().union(*(existing[name] for name in named(expression))) | {"instance"}
            assert set(labels.split(", ")) <= all_labels, expression


def test_panels_do_not_overlap() -> None:
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_documentation_names_all_metrics_and_no_others(existing: dict[str, set[str]]) -> None:
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in existing}
    assert named(DOCS) == families


def test_the_documented_labels_are_the_real_ones(existing: dict[str, set[str]]) -> None:
    found = re.findall(r"`(jobq_[a-z_]+)\{([a-z,]+)\}`", DOCS)
    assert len(found) > 12
    for name, labels in found:
        assert set(labels.split(",")) == existing.get(name, existing.get(f"{name}_count")), name


@pytest.mark.parametrize("which", [0, 1])
def test_promtool_accepts_the_documented_configuration(which: int, tmp_path: Path) -> None:
    """The first block is a scrape configuration, the second one has rules."""
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("no promtool on PATH")
    section = DOCS.partition("\n## Prometheus")[2]
    block = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[which]
    file = tmp_path / "file.yml"
    file.write_text(block)
    done = subprocess.run([promtool, "check", ("config", "rules")[which], str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promql_of_the_dashboard(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("no promtool on PATH")
    texts = [it.replace("$__rate_interval", "1m") for it in expressions() if it and not it.startswith("label_values")]
    rules = [{"record": f"r{n}", "expr": text} for n, text in enumerate(texts)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))  # YAML includes JSON
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
