"""The benchmark of the load generator: what it reads from LoadGen's summary, and what it says where LoadGen is missing."""

from __future__ import annotations

import pytest

from benchmarks import loadgen, loadgen_rival
from benchmarks.record import Figure

SUMMARY = """
================================================
MLPerf Results Summary
================================================
Result is : VALID
50.00 percentile latency (ns)   : 11693039
99.00 percentile latency (ns)   : 22127511
99.90 percentile latency (ns)   : 31127511
"""


def test_percentiles_are_read_from_loadgens_summary() -> None:
    assert loadgen_rival._percentile(SUMMARY, "50.00") == pytest.approx(11.693039)
    assert loadgen_rival._percentile(SUMMARY, "99.00") == pytest.approx(22.127511)
    with pytest.raises(SystemExit, match=r"states no 97\.00 percentile"):
        loadgen_rival._percentile(SUMMARY, "97.00")


def test_agreement_is_left_out_with_its_reason_where_loadgen_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure("x", 1.0, "ms", 1)
    monkeypatch.setattr(loadgen, "lag", lambda _: ([figure], []))
    monkeypatch.setattr(loadgen, "stall", lambda _: ([figure], []))
    monkeypatch.setattr(loadgen, "find_spec", lambda _: None)
    record = loadgen.run(quick=True, tell=lambda *_: None)
    assert record.notes == {"agreement": "left out: mlcommons-loadgen is not installed"}
    assert [found.name for found in record.figures] == ["x", "x"]
