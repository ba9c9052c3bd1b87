"""The service's own histogram: what happened between two scrapes, and why there is none where there is none."""

from __future__ import annotations

import prometheus_client as prometheus
import pytest

from loadtests.server_side import between, parse, scrape
from pilotage.process import free_port
from serving.monitoring.metrics import ServiceMetrics


class _Service:
    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.bound = ServiceMetrics(self.registry).bind_ranking("ads", "7")

    def answer(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.bound.answered((0.0, seconds), 10)

    def text(self) -> str:
        self.bound.flush()
        return prometheus.generate_latest(self.registry).decode()


def test_only_what_happened_between_the_scrapes_is_counted() -> None:
    service = _Service()
    service.answer(0.0007, 5)
    before = parse(service.text())
    service.answer(0.0025, 3)
    service.answer(9.0, 1)
    service.bound.refused(503, 0.0001)
    service.bound.shed("overload")
    found = between(before, parse(service.text()))
    assert found.missing == ""
    assert found.shed == {"overload": 1}
    answered, refused = found.histograms
    assert (answered.model, answered.version, answered.status, answered.total, answered.beyond) == ("ads", "7", "200", 4, 1)
    assert {upper: count for upper, count in zip(answered.upper_ms, answered.requests, strict=True) if count} == {3.0: 3}
    assert answered.mean_ms == pytest.approx((3 * 2.5 + 9000) / 4)
    assert (refused.status, refused.total) == ("503", 1)


def test_a_service_started_anew_is_told() -> None:
    old, new = _Service(), _Service()
    old.answer(0.001, 9)
    new.answer(0.001, 2)
    assert "started anew" in between(parse(old.text()), parse(new.text())).missing


def test_what_is_missing_says_why() -> None:
    assert "not asked for" in between(None, None).missing
    assert "no Pilotage service" in between(parse("# EOF\n"), parse("up 1\n")).missing
    service = _Service()
    service.answer(0.001, 2)
    idle = parse(service.text())
    assert "counted no request" in between(idle, idle).missing


def test_a_scrape_that_fails_is_told_and_raises_nothing() -> None:
    gone = scrape(f"http://127.0.0.1:{free_port()}")
    assert "got no usable answer" in gone.missing
    assert between(gone, gone).missing == gone.missing
