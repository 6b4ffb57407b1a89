"""The colours of the modes on a terminal, the same in every report."""

from __future__ import annotations

STYLES = {"thread": "cyan", "process": "magenta"}
