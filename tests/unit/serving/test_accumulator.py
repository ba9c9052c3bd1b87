"""What is counted here reaches Prometheus' client as if it had been observed there."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from serving.monitoring.accumulator import Accumulator, Tally

BOUNDS = (0.1, 0.5, 1.0)
VALUES = (0.05, 0.1, 0.100001, 0.5, 0.7, 1.0, 1.5, 100.0)


def _histogram(registry: CollectorRegistry) -> Histogram:
    return Histogram("seconds", "Seconds.", ("model",), buckets=BOUNDS, registry=registry).labels("m")


def test_flushed_counts_equal_observed_ones() -> None:
    flushed, observed = CollectorRegistry(), CollectorRegistry()
    accumulator, expected = Accumulator(_histogram(flushed), BOUNDS), _histogram(observed)
    for value in VALUES:
        accumulator.observe(value)
        expected.observe(value)
    accumulator.flush()
    accumulator.flush()
    told, wanted = ([line for line in generate_latest(r).splitlines() if b"_created" not in line] for r in (flushed, observed))
    assert told == wanted


def test_nothing_is_told_before_a_flush() -> None:
    registry = CollectorRegistry()
    Accumulator(_histogram(registry), BOUNDS).observe(0.3)
    assert registry.get_sample_value("seconds_count", {"model": "m"}) == 0


def test_a_tally_is_told_once_at_each_flush() -> None:
    registry = CollectorRegistry()
    tally = Tally(Counter("shed", "Shed.", ("reason",), registry=registry).labels("overload"))
    for _ in range(3):
        tally.add()
    assert registry.get_sample_value("shed_total", {"reason": "overload"}) == 0
    tally.flush()
    tally.flush()
    assert registry.get_sample_value("shed_total", {"reason": "overload"}) == 3
