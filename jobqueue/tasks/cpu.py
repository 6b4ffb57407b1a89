"""Work for the CPU: a loop of integer arithmetic that holds the GIL and that no compiler can shorten."""

from __future__ import annotations

# Knuth's linear congruential generator (MMIX), so that a test can jump ahead and know the answer.
A, C, M = 6364136223846793005, 1442695040888963407, 2**64
STEPS_PER_MS = 7_000  # about a millisecond of one core of a cloud machine of 2024, CPython 3.11


def burn(ms: int | float) -> int:
    """Step the generator ms * STEPS_PER_MS times from zero; return the upper 32 bits of its state."""
    x = 0
    for _ in range(int(ms * STEPS_PER_MS)):
        x = (A * x + C) % M
    return x >> 32  # 32 bits are exact in every JSON reader
