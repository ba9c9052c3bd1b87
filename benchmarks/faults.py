"""How a bad release is told which fault it has: by its environment (`benchmarks.bad_releases`)."""

from __future__ import annotations

VARIABLE = "BENCHMARK_FAULT"

CRASH_ON_START = "crash_on_start"
"""The others are functions of `benchmarks.bad_releases`."""
