"""Run RQ's own test suite with our classes in place of RQ's, in several shards at the same time.

    python tests/conformance/suite.py [PLACES]...     PLACES: "Worker", "Worker Queue", "" (RQ's own, as a check)

The tests come out of the source distribution that fetch.py fetched. Each shard is a pytest of its own with a server
of its own, for RQ's tests empty their database. Most of their time is spent waiting, so shards outnumber cores.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from expected import EXPECTED  # noqa: E402
from fetch import SDIST, VERSION  # noqa: E402
from helpers import ROOT, Server  # noqa: E402

SHIM = Path(__file__).parent / "shim"
COMBINATIONS = ("SimpleWorker Worker", "Queue")  # two places at once where no test meets both
DEADLINE = 240.0  # seconds for a shard; RQ's slowest takes 40
MOST_AGAIN = 8  # more failures than this have another reason than a busy machine
STRETCHES = (1, 4)  # failed tests run again, alone, with their sleeps as they are, and then this many times as long
LINGER = 10.0  # seconds for pytest to leave after its last test
# Slow tests are spread: module (and class) → its shard. The other modules are assigned in turn.
LONG = (
    "test_worker.py",
    "test_cli.py",
    "test_scheduler.py",
    "test_worker_pool.py test_group.py",
    "test_job_dependency.py",
)


class NotFetched(Exception):
    """RQ's source has not been fetched."""


@dataclass
class Report:
    """The outcomes of one run of the suite."""

    places: str
    outcomes: dict[str, str] = field(default_factory=dict)  # test → passed, skipped, failed, error, hung, left
    texts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    again: list[str] = field(default_factory=list)  # tests that passed only in their second run, alone
    stacks: dict[str, str] = field(default_factory=dict)  # test that hung → where its processes were
    loops: dict[str, int] = field(default_factory=dict)  # calls of work() that our engine ran, or RQ's own loop

    @property
    def bad(self) -> dict[str, str]:
        """Return the tests that should have passed, with their messages."""
        bad = [name for name, outcome in self.outcomes.items() if outcome not in ("passed", "skipped")]
        return {name: self.texts.get(name, "") for name in bad if not self.reason(name)}

    @property
    def expected(self) -> dict[str, str]:
        """Return the tests that failed as the list says, with the reason."""
        return {
            n: self.reason(n) for n, o in self.outcomes.items() if o not in ("passed", "skipped") and self.reason(n)
        }

    @property
    def out_of_date(self) -> list[str]:
        """Return the tests that the list expects to fail and that passed."""
        return [name for name, outcome in self.outcomes.items() if outcome == "passed" and self.reason(name)]

    def reason(self, test: str) -> str:
        return next((EXPECTED[place][test] for place in self.places.split() if test in EXPECTED[place]), "")

    def count(self, outcome: str) -> int:
        return sum(o == outcome for o in self.outcomes.values())

    def line(self) -> str:
        """Return the counts, in one line."""
        again = f" ({len(self.again)} only when run alone: {', '.join(self.again)})" if self.again else ""
        loops = (
            f", {self.loops.get('ours', 0)} of {sum(self.loops.values())} work() on our engine" if self.loops else ""
        )
        counts = f"{len(self.expected)} expected failures, {len(self.bad)} failed, {self.count('skipped')} skipped"
        who = f"rq {VERSION}, {self.places or 'RQ itself'}"
        return f"{who}: {self.count('passed')} passed{again}, {counts}{loops}, {self.seconds:.0f} s"


class Suite:
    """RQ's tests in a separate directory."""

    def __init__(self, directory: Path) -> None:
        if not SDIST.exists():
            raise NotFetched(f"RQ's test suite is not there: run {sys.executable} tests/conformance/fetch.py")
        self._directory = directory
        self._root = directory / f"rq-{VERSION}"
        with tarfile.open(SDIST) as tar:
            wanted = [m for m in tar.getmembers() if m.name.startswith(f"rq-{VERSION}/tests/")]
            wanted.append(tar.getmember(f"rq-{VERSION}/pyproject.toml"))
            safe: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not yet in Python 3.11.2
            tar.extractall(directory, wanted, **safe)

    def run(self, places: str) -> Report:
        """Run all tests once, and those that failed twice more, alone."""
        began = time.monotonic()
        report = Report(places)
        shards = [Shard(self._root, self._directory, places, tests) for tests in self._shards()]
        for shard in shards:
            shard.finish(report)
        if left := [name for name, outcome in report.outcomes.items() if outcome == "left"]:
            Shard(self._root, self._directory, places, [f"tests/{name}" for name in left]).finish(report)
        self._run_again(report)
        report.seconds = time.monotonic() - began
        return report

    def _run_again(self, report: Report) -> None:
        """Run failed tests again, alone, and at last with longer sleeps: RQ's tests sleep for fixed times before they
        check, which may be too short on a busy machine. A real failure occurs each time."""
        failed = list(report.bad)
        if len(failed) > MOST_AGAIN:
            return
        for stretch in STRETCHES:
            for name in list(report.bad):
                Shard(self._root, self._directory, report.places, [f"tests/{name}"], stretch).finish(report)
        report.again = [name for name in failed if name not in report.bad]

    def _shards(self) -> Iterator[list[str]]:
        modules = sorted(path.name for path in (self._root / "tests").glob("test_*.py"))
        for names in LONG:
            yield [f"tests/{name}" for name in names.split()]
        rest = [f"tests/{name}" for name in modules if name not in " ".join(LONG).split()]
        yield rest[::2]
        yield rest[1::2]


class Shard:
    """Some of RQ's tests in their own pytest, started at once."""

    def __init__(self, root: Path, directory: Path, places: str, tests: list[str], stretch: int = 1) -> None:
        """stretch: the tests' own sleeps take so many times as long."""
        self._tests = tests
        self._stretch = stretch
        self._home = Path(tempfile.mkdtemp(dir=directory))
        self._server = Server(self._home)
        self._record = self._home / "record"
        self._record.touch()
        self._output = self._home / "output"
        options = ["-q", "-p", "recorder", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:timeout"]
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, *tests],
                cwd=root,
                env=self._environment(places),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that a hanging test can be ended with all processes that it started
            )
        self._deadline = time.monotonic() + DEADLINE

    def _environment(self, places: str) -> dict[str, str]:
        dropped = ("PYTEST_", "JOBQ_", "RQ_", "COV_", "COVERAGE_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        return env | {
            "JOBQ_IN_PLACE_OF": places,
            "JOBQ_CONFORMANCE_SOCKET": self._server.socket,
            "JOBQ_CONFORMANCE_RECORD": str(self._record),
            "JOBQ_CONFORMANCE_STRETCH": str(self._stretch),
            "PYTHONPATH": os.pathsep.join([str(SHIM), str(ROOT)]),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")]),
        }

    def finish(self, report: Report) -> None:
        """Wait for the end and add the outcomes to the report."""
        code = self._wait()
        left, begun = {}, {}
        for line in self._record.read_text().splitlines():
            test, outcome, _, text = json.loads(line)
            name = test.removeprefix("tests/")
            if outcome == "loop":
                report.loops[test] = report.loops.get(test, 0) + 1
                continue
            if outcome == "finished":  # pytest may still wait for processes that a failed test left
                code = 1 if code else 0
                continue
            if outcome == "collected":
                left[name] = True
                continue
            if outcome == "begun":
                left.pop(name, None)
                begun[name] = True
                continue
            begun.pop(name, None)
            report.outcomes[name] = outcome
            report.texts[name] = text
        for name in begun:
            report.outcomes[name] = "hung"
            report.texts[name] = f"It did not come to an end, or took pytest with it (exit code {code})."
            report.stacks[name] = self._output.read_text(errors="replace")[-20_000:]
        for name in left:
            report.outcomes[name] = "left"
            report.texts[name] = f"Its turn did not come (exit code {code})."
        if code not in (0, 1) and not begun:
            name = " ".join(self._tests)
            report.outcomes[name] = "error"
            report.texts[name] = f"pytest exited with {code}:\n{self._output.read_text()[-3000:]}"

    def _wait(self) -> int:
        """Return pytest's exit code; 2 if it had to be killed. Then the processes have printed where they were: pytest
        has switched faulthandler on."""
        try:
            while (code := self._process.poll()) is None and time.monotonic() < self._deadline:
                if '"finished"' in self._record.read_text()[-200:]:
                    self._deadline = min(self._deadline, time.monotonic() + LINGER)
                time.sleep(0.1)
            if code is None:
                os.killpg(self._process.pid, signal.SIGABRT)
                time.sleep(1.0)  # for what they print
                code = 2
            return code
        finally:
            self._end()

    def _end(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._server.stop()


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background; RQ's tests send it
    bad = False
    directory = Path(tempfile.mkdtemp(prefix="jobq-rq-"))
    try:
        suite = Suite(directory)
        for places in sys.argv[1:] or COMBINATIONS:
            report = suite.run(places)
            for name, text in report.bad.items():
                print(f"FAILED {name}\n{text}\n")
            for name, stacks in report.stacks.items():
                print(f"HUNG {name}\n{stacks}\n")
            for name, reason in report.expected.items():
                print(f"expected: {name}: {reason}")
            for name in report.out_of_date:
                print(f"PASSED although expected to fail: {name}")
            print(report.line(), flush=True)
            for name in report.bad:
                print(f"  {name}")
            bad = bad or bool(report.bad)
    except NotFetched as e:
        raise SystemExit(str(e)) from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(bad)


if __name__ == "__main__":
    main()
