"""Schedules: the same for the same seed, of the rate that was asked for, and Poisson where they say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from loadtests.arrivals import Arrivals, Bursts, Closed, Constant, Poisson, Ramp, Replay, Steps, parse_arrivals, peak_rps, schedule
from serving.contract.errors import SettingsError

KINDS: tuple[Arrivals, ...] = (
    Constant(rate_rps=50),
    Poisson(rate_rps=50),
    Bursts(rate_rps=20, burst_rps=200, burst_s=1, every_s=5),
    Ramp(from_rps=1, to_rps=100, ramp_s=60),
    Steps(rates_rps=(10, 100, 40), step_s=20),
)


@pytest.mark.parametrize("arrivals", KINDS, ids=lambda kind: kind.kind)
def test_a_schedule_is_ascending_and_a_longer_one_begins_alike(arrivals: Arrivals) -> None:
    starts, longer = schedule(arrivals, 3, duration_s=100), schedule(arrivals, 3, samples=10_000)
    assert (np.diff(starts) >= 0).all()
    assert (starts[0] >= 0, starts[-1] < 100, len(longer)) == (True, True, 10_000)
    np.testing.assert_allclose(starts, longer[: len(starts)], rtol=1e-12)
    assert len(schedule(arrivals, 3, duration_s=100, samples=7)) == 7


@pytest.mark.parametrize(
    ("arrivals", "edges", "expected"),
    [
        (KINDS[1], [0, 50, 100], [2500, 2500]),
        (KINDS[2], [0, 4, 5, 9, 10], [80, 200, 80, 200]),
        (KINDS[3], [0, 30, 60, 100], [30 * (1 + 50.5) / 2, 30 * (50.5 + 100) / 2, 4000]),
        (KINDS[4], [0, 20, 40, 60, 80], [200, 2000, 800, 800]),
    ],
    ids=["poisson", "bursts", "ramp", "steps"],
)
def test_rates_are_those_asked_for(arrivals: Arrivals, edges: list[float], expected: list[float]) -> None:
    # Summed over 20 seeds the counts are Poisson: a chi-square test of all of them at once.
    counts = sum(np.histogram(schedule(arrivals, seed, duration_s=edges[-1]), edges)[0] for seed in range(20))
    statistic = float(((counts - 20 * np.array(expected)) ** 2 / (20 * np.array(expected))).sum())
    assert stats.chi2.sf(statistic, len(expected)) > 1e-4


def test_times_between_poisson_starts_are_exponential() -> None:
    gaps = np.diff(schedule(Poisson(rate_rps=200), 5, samples=20_000))
    assert stats.kstest(gaps, stats.expon(scale=1 / 200).cdf).pvalue > 1e-4


def test_constant_starts_are_evenly_spaced() -> None:
    np.testing.assert_allclose(schedule(Constant(rate_rps=4), 0, duration_s=1), [0, 0.25, 0.5, 0.75])


def test_seeds_draw_different_schedules() -> None:
    assert not np.array_equal(schedule(KINDS[1], 1, samples=10), schedule(KINDS[1], 2, samples=10))


def test_a_trace_is_replayed_from_its_first_request_at_any_speed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    trace.write_text("100.0\n100.5\n\n102\n")
    assert schedule(Replay(trace=trace), 0).tolist() == [0.0, 0.5, 2.0]
    assert schedule(Replay(trace=trace, speed=2), 0, duration_s=1).tolist() == [0.0, 0.25]


@pytest.mark.parametrize("content", ["", "1\n0\n", "x\n", "nan\n"])
def test_a_trace_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "trace.txt").write_text(content)
    with pytest.raises(SettingsError):
        schedule(Replay(trace=tmp_path / "trace.txt"), 0)


def test_what_cannot_be_a_schedule_is_refused() -> None:
    with pytest.raises(SettingsError, match="never end"):
        schedule(Poisson(rate_rps=1), 0)
    with pytest.raises(SettingsError, match="no schedule"):
        schedule(Closed(users=1), 0, duration_s=1)
    with pytest.raises(SettingsError, match="at most 50,000,000"):
        schedule(Poisson(rate_rps=100_000), 0, duration_s=86_400)
    with pytest.raises(SettingsError, match="not one request"):
        schedule(Poisson(rate_rps=0.001), 0, duration_s=0.001)


def test_arrivals_are_written_short_or_as_json() -> None:
    assert parse_arrivals("poisson:200") == Poisson(rate_rps=200)
    assert parse_arrivals("closed:3") == Closed(users=3)
    assert parse_arrivals("replay:a:b.txt") == Replay(trace=Path("a:b.txt"))
    assert parse_arrivals('{"kind": "steps", "rates_rps": [1, 2], "step_s": 3}') == Steps(rates_rps=(1, 2), step_s=3)
    for wrong in ("poisson", "poisson:0", "poisson:x", "tides:3", "[]", '{"kind": "poisson", "rate": 3}', "closed:0"):
        with pytest.raises(SettingsError, match="arrivals"):
            parse_arrivals(wrong)


def test_every_kind_is_documented_with_its_settings() -> None:
    page = (Path(__file__).parents[3] / "docs/loadtests.md").read_text()
    for kind in (Closed, Constant, Poisson, Bursts, Ramp, Steps, Replay):
        fields = [f"`{name}`" for name in kind.model_fields if name != "kind"]
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{kind.model_fields['kind'].default}` | `")]
        assert all(field in row for field in fields), row


def test_the_highest_rate_is_known_where_there_is_one() -> None:
    assert [peak_rps(kind) for kind in KINDS] == [50, 50, 200, 100, 100]
    assert peak_rps(Closed(users=1)) is None
