"""The search closes in on the rate at which a service stops keeping its objectives, within its bounds, and says what it does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.load_profile import load_profile
from loadtests.saturation import Saturation, Search, Status, Trial, search, summed_up
from loadtests.saturation_page import write_saturation_page
from loadtests.searching import status_of, trial_profile


def _service(status: Callable[[float], Status], seconds: float = 10.0) -> Callable[[float, int], Trial]:
    def run(rate_rps: float, samples: int) -> Trial:
        found = status(rate_rps)
        p99_ms = 20.0 + rate_rps / 10
        return Trial(
            rate_rps=rate_rps,
            status=found,
            sentence=found,
            requests=samples,
            seconds=seconds,
            p50_ms=3.0,
            p99_ms=p99_ms,
            p99_interval_ms=(p99_ms / 2, None),
            error_pct=0,
            achieved_rps=rate_rps,
        )

    return run


def _below(limit_rps: float) -> Callable[[float], Status]:
    return lambda rate_rps: "pass" if rate_rps <= limit_rps else "fail"


@pytest.mark.parametrize("limit_rps", [3.0, 49.0, 51.0, 237.0, 5000.0])
def test_the_limit_is_bracketed_to_the_precision_asked(limit_rps: float) -> None:
    found = search(Search(precision_pct=5, max_trials=20, max_total_s=86_400), _service(_below(limit_rps)))
    assert found.ended == "precision"
    assert found.keeps_rps is not None
    assert found.fails_rps is not None
    assert found.keeps_rps <= limit_rps < found.fails_rps <= 1.05 * found.keeps_rps
    assert status_of(found) == "pass"


def test_the_search_ends_at_its_bounds() -> None:
    high = search(Search(max_rps=300), _service(lambda _: "pass"))
    assert (high.keeps_rps, high.fails_rps, high.ended) == (300, None, "max_rps")
    low = search(Search(min_rps=10), _service(lambda _: "fail"))
    assert (low.keeps_rps, low.fails_rps, low.ended, status_of(low)) == (None, 10, "min_rps", "fail")
    few = search(Search(max_trials=3), _service(_below(237)))
    assert (len(few.trials), few.keeps_rps, few.fails_rps, few.ended) == (3, 200, None, "max_trials")
    short = search(Search(max_total_s=90), _service(_below(237), seconds=40))
    assert (len(short.trials), short.ended) == (2, "max_total_s")


def test_a_generator_that_falls_behind_is_not_taken_for_the_service() -> None:
    found = search(Search(), _service(lambda rate_rps: "pass" if rate_rps < 300 else "invalid"))
    assert (found.ended, found.fails_rps) == ("generator", None)
    assert "the service's own limit is not known" in found.sentence


def test_a_generator_that_stumbles_once_gets_a_second_try() -> None:
    tried: list[float] = []

    def status(rate_rps: float) -> Status:
        tried.append(rate_rps)
        return "invalid" if len(tried) == 1 else "pass" if rate_rps < 70 else "fail"

    found = search(Search(), _service(status))
    assert tried[:2] == [50, 50]
    assert found.ended == "precision"


def test_what_a_run_cannot_tell_is_left_open() -> None:
    service = _service(lambda rate_rps: "pass" if rate_rps < 100 else "inconclusive" if rate_rps < 150 else "fail")
    found = search(Search(start_rps=200), service)
    assert found.keeps_rps is not None
    assert 90 < found.keeps_rps < 100
    assert (found.fails_rps, found.ended) == (200, "undecided")
    nothing = search(Search(max_trials=4), _service(lambda _: "inconclusive"))
    assert (nothing.keeps_rps, nothing.fails_rps, status_of(nothing)) == (None, None, "inconclusive")


def test_a_search_that_is_interrupted_says_what_it_knows() -> None:
    trials = list(search(Search(), _service(_below(237))).trials)[:4]
    found = summed_up(trials, "interrupted")
    assert (found.keeps_rps, found.fails_rps) == (200, 400)
    assert "interrupted, they are missed at 400/s" in found.sentence
    assert summed_up([], "interrupted").keeps_rps is None


def test_slow_rates_have_shorter_runs_and_all_share_the_risk() -> None:
    settings = Search(samples=3000, fewest=1000, longest_s=30, max_trials=10)
    assert [settings.samples_at(rate) for rate in (5, 50, 500)] == [1000, 1500, 3000]
    assert settings.policy().false_pass == pytest.approx(0.005)


def test_runs_draw_schedules_of_their_own() -> None:
    profile = load_profile("saturation")
    first, second = trial_profile(profile, 50, 900, 1), trial_profile(profile, 50, 900, 2)
    assert (first.arrivals.kind, first.samples, first.saturation) == ("poisson", 900, None)
    assert first.seed != second.seed


def test_the_page_shows_every_run(tmp_path: Path) -> None:
    found = search(Search(), _service(_below(237)))
    assert Saturation.model_validate_json(found.model_dump_json()) == found
    target = tmp_path / "saturation.html"
    write_saturation_page(found, load_profile("saturation"), "http://127.0.0.1:1", target)
    page = target.read_text()
    assert page.count("/report.html") == len(found.trials)
    assert page.count("<svg") == 1
