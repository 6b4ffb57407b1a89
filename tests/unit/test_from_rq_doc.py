"""docs/from-rq.md names for each feature the test that shows it: these tests exist, and run in both modes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import ROOT

LIFECYCLE = ROOT / "tests" / "lifecycle"
FEATURES = (ROOT / "docs" / "from-rq.md").read_text().split("## Features")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| (.+) \| (jobq|RQ's code|either|not by `jobq worker`) \| (.+) \|$", FEATURES, re.M)


def sources() -> str:
    return "\n".join(path.read_text() for path in (*LIFECYCLE.glob("*.py"), *Path(__file__).parent.glob("*.py")))


def test_the_table_is_read_to_its_end() -> None:
    assert len(ROWS) == FEATURES.count("\n| ") - 1
    assert len(ROWS) > 25


@pytest.mark.parametrize(("feature", "by", "shown"), ROWS, ids=[row[0][:30] for row in ROWS])
def test_each_row_names_tests_that_exist_and_run_in_both_modes(feature: str, by: str, shown: str) -> None:
    kinds = (LIFECYCLE / "kinds.py").read_text()
    for name in re.findall(r"`(\w+)`", shown):
        if not name.startswith("test_"):
            assert f"@kind\ndef {name}(" in kinds
            continue
        heads = re.findall(rf"^def {name}\((.*?)\) -> None:", sources(), re.M | re.S)
        assert heads, name
        assert any("mode: str" in head for head in heads) or by.startswith("not"), f"{name} runs in one mode only"
