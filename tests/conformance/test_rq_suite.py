"""Test that RQ's own test suite passes with our classes in place of RQ's. suite.py runs it; expected.py lists what
cannot pass."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from suite import COMBINATIONS, NotFetched, Suite


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("places", COMBINATIONS)
def test_rqs_own_suite_passes(places: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        suite = Suite(tmp_path)
    except NotFetched as e:
        pytest.fail(str(e), pytrace=False)
    report = suite.run(places)
    with capsys.disabled():
        print(f"\n{report.line()}")
    for name, stacks in report.stacks.items():  # also where it passed when it ran alone: it may be a fault of ours
        warnings.warn(f"{name} of RQ's tests hung:\n{stacks}", stacklevel=1)
    failed = "".join(f"\n{name}\n{text}\n" for name, text in report.bad.items())
    assert not failed, f"{failed}\n{len(report.bad)} of RQ's tests failed:\n" + "\n".join(report.bad)
    assert not report.out_of_date, f"expected.py is out of date, these pass: {report.out_of_date}"
    assert report.count("passed") + len(report.expected) >= 784, report.line()
