"""Make metric families of prometheus_client. Only this package imports it, and only where metrics are served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from jobqueue import __version__
from jobqueue.insight.usage import BUCKETS, WAIT_BUCKETS

K = TypeVar("K", bound=tuple[str, ...])

# Exponents of two, in microseconds, that are the upper bounds of a histogram of run times: 16 us to 36 minutes, by
# factors of four below a millisecond and of two above.
EXPONENTS = (4, 6, 8, *range(10, BUCKETS // 2))
# Likewise of waiting times: 1 ms to 18 minutes by factors of two, and then to 6 days by factors of four.
WAIT_EXPONENTS = (*range(10, 31), *range(32, WAIT_BUCKETS, 2), WAIT_BUCKETS - 1)
Bounds = Sequence[tuple[int, int]]  # of a histogram: exponents of two, and how many of the store's buckets are below
RUN_BOUNDS: Bounds = [(exponent, 2 * exponent) for exponent in EXPONENTS]  # the bucket k ends at 2^((k+1)/2) us
WAIT_BOUNDS: Bounds = [(exponent, exponent) for exponent in WAIT_EXPONENTS]  # the bucket k ends at 2^(k+1) us


def gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[K, float]) -> Metric:
    """Return a gauge with one value for each tuple of label values."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[K, float]) -> Metric:
    """Return a counter likewise. ``name`` is without ``_total``, which is added to it."""
    family = CounterMetricFamily(name, text, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def single(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def version(name: str, text: str, **more: str) -> Metric:
    """Return the info metric that names the version of jobq, and ``more``."""
    return InfoMetricFamily(name, text, value={"version": __version__, **more})


def histograms(
    name: str, text: str, labels: tuple[str, ...], bounds: Bounds, found: Mapping[str, tuple[list[int], float]]
) -> Metric:
    """Return histograms. ``found``: by label value, the runs in each bucket of insight/usage.py, and their seconds."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for of, (runs, seconds) in found.items():
        family.add_metric([of], list(_buckets(bounds, runs)), sum_value=seconds)
    return family


def _buckets(bounds: Bounds, runs: list[int]) -> Iterable[tuple[str, float]]:
    """Yield (upper bound, runs up to it)."""
    for exponent, below in bounds:
        yield str((1 << exponent) / 1e6), float(sum(runs[:below]))
    yield "+Inf", float(sum(runs))
