"""Draw the main row: no-op jobs per second in one process, a bar per peer, for light and dark pages."""

from __future__ import annotations

from xml.sax.saxutils import escape

from peers.plan import ONE
from peers.tables import LIMIT, Column, Report, median, per_second

SHADES = {  # background, text, jobq's bar, the others' bars
    "light": ("#ffffff", "#1f2328", "#0969da", "#afb8c1"),
    "dark": ("#0d1117", "#e6edf3", "#58a6ff", "#484f58"),
}
WIDTH, LEFT, RIGHT, TOP, STEP, HEIGHT = 720, 90, 80, 46, 28, 18
_MAIN = Column("", f"drain: {ONE.name}", "rate", per_second, True)


def both(report: Report) -> dict[str, str]:
    """Return the picture for each kind of page; {} when the row was not measured."""
    rates = {peer: median(report, peer, _MAIN) for peer in report["peers"] if peer != LIMIT}
    there = sorted(((rate, peer) for peer, rate in rates.items() if rate is not None), reverse=True)
    return {shade: _drawn(there, *colours) for shade, colours in SHADES.items()} if there else {}


def _drawn(rates: list[tuple[float, str]], paper: str, ink: str, ours: str, theirs: str) -> str:
    height = TOP + STEP * len(rates) + 8
    scale = (WIDTH - LEFT - RIGHT) / max(rate for rate, _ in rates)
    said = ", ".join(f"{peer} {rate:,.0f}" for rate, peer in rates)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="14" fill="{ink}">',
        f"<title>No-op jobs per second, one process</title><desc>{escape(said)}</desc>",
        f'<rect width="{WIDTH}" height="{height}" fill="{paper}"/>',
        f'<text x="{LEFT}" y="26" font-size="15" font-weight="600">No-op jobs per second, one process</text>',
    ]
    for number, (rate, peer) in enumerate(rates):
        y = TOP + number * STEP
        weight = ' font-weight="600"' if peer == "jobq" else ""
        bar = max(rate * scale, 1)
        lines += [
            f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end"{weight}>{escape(peer)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{bar:.1f}" height="{HEIGHT}" rx="2" '
            f'fill="{ours if peer == "jobq" else theirs}"/>',
            f'<text x="{LEFT + bar + 8:.1f}" y="{y + 14}"{weight}>{rate:,.0f}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
