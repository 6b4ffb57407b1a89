"""Draw the guide's pictures from what ``jobq compare --json`` printed: see USAGE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jobqueue.compare.charts.files import pictures

USAGE = "usage: python -m jobqueue.compare.charts REPORT.json DIRECTORY"


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(USAGE, file=sys.stderr)
        return 2
    report, directory = map(Path, arguments)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in pictures(json.loads(report.read_text(encoding="utf-8"))):
            (directory / name).write_text(content, encoding="utf-8")
            print(directory / name)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
