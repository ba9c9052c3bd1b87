"""What a report says of a run: objectives by the judge, goodput, the generator's own lag, parts; and the page that shows it."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

from loadtests.early_stopping import EarlyStopping
from loadtests.objectives import Objective, parse_objective
from loadtests.page import render_page
from loadtests.report import Asked, Report, build_report
from loadtests.server_side import Histogram, ServerSide
from serving.contract.errors import SettingsError
from tests.load_samples import RUN, made_up

KEPT = Objective(p50_ms=10, p99_ms=30, max_error_pct=1, min_goodput_pct=98, within_ms=20)


def _asked(*objectives: Objective, **more: object) -> Asked:
    return Asked.model_validate({"objectives": objectives, **more})


def test_a_healthy_run_passes_its_objectives() -> None:
    report = build_report(RUN, made_up(), _asked(KEPT))
    assert (report.status, report.valid) == ("pass", True)
    assert report.verdict is not None
    assert [finding.status for finding in report.verdict.findings] == ["pass"] * 4
    assert report.goodput is not None
    assert report.goodput.pct > 99
    assert report.offered_rps == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize(
    ("broken", "objective"),
    [({"times": 4}, "p50 limit"), ({"stall_s": 3}, "p99 limit"), ({"errors": 0.05}, "error limit"), ({"times": 8}, "goodput within 20 ms")],
    ids=["slow", "stall", "errors", "late"],
)
def test_a_broken_run_fails_the_objective_that_it_breaks(broken: dict[str, float], objective: str) -> None:
    report = build_report(RUN, made_up(**broken), _asked(KEPT))  # type: ignore[arg-type]
    assert report.status == "fail"
    assert report.verdict is not None
    assert objective in {finding.objective for finding in report.verdict.findings if finding.status == "fail"}


def test_too_few_requests_are_inconclusive() -> None:
    report = build_report(RUN, made_up(150), _asked(KEPT))
    assert report.status == "inconclusive"
    assert report.sentence.startswith("Undecided")


def test_a_late_generator_is_not_judged_however_good_the_figures() -> None:
    report = build_report(RUN, made_up(lag_ms=8), _asked(Objective(p99_ms=1000)))
    assert (report.status, report.valid) == ("inconclusive", False)
    assert report.sentence.count("late") == 1
    page = render_page(report, made_up(lag_ms=8))
    assert "This run is not valid" in page
    with pytest.raises(ValidationError, match="not valid"):
        Report.model_validate({**report.model_dump(), "status": "pass"})


def test_answers_that_never_came_are_not_judged() -> None:
    report = build_report(RUN, replace(made_up(), unanswered=100), _asked(KEPT))
    assert report.status == "inconclusive"
    assert "without an answer" in report.sentence


def test_a_failure_too_many_fails_a_run_of_any_length() -> None:
    report = build_report(RUN, made_up(50, errors=0.5), _asked(max_failures=0))
    assert report.status == "fail"
    assert build_report(RUN, made_up(50), _asked(max_failures=0)).status == "done"


def test_an_objective_of_an_endpoint_looks_at_that_endpoint_alone() -> None:
    samples = made_up(6000, endpoints=("rank", "classify"))
    slow = samples.endpoint == 1
    samples = replace(samples, latency_ms=np.where(slow, samples.latency_ms * 10, samples.latency_ms))
    report = build_report(RUN, samples, _asked(Objective(endpoint="rank", p99_ms=20), Objective(endpoint="classify", p99_ms=20)))
    assert report.verdict is not None
    assert [(finding.objective, finding.status) for finding in report.verdict.findings] == [
        ("p99 limit at rank", "pass"),
        ("p99 limit at classify", "fail"),
    ]
    assert [(part.endpoint, part.arm) for part in report.parts] == [("rank", None), ("classify", None)]


def test_an_endpoint_that_nobody_asked_is_inconclusive() -> None:
    assert build_report(RUN, made_up(), _asked(Objective(endpoint="infer", p99_ms=20))).status == "inconclusive"


def test_a_canary_is_compared_with_its_baseline() -> None:
    samples = made_up(6000, arms=("stable", "canary"))
    slower = replace(samples, latency_ms=np.where(samples.arm == 1, samples.latency_ms * 2, samples.latency_ms))
    asked = _asked(compare=("canary", "stable"))
    assert build_report(RUN, samples, asked).status == "pass"
    report = build_report(RUN, slower, asked)
    assert report.status == "fail"
    assert "the canary is slower" in report.sentence
    assert [(part.endpoint, part.arm) for part in report.parts] == [(None, "stable"), (None, "canary")]


def test_early_stopping_counts_failures_and_slow_requests_in_the_order_in_which_they_were_due() -> None:
    asked = _asked(early_stopping=EarlyStopping(limit_ms=30, looks=2), planned=4000)
    report = build_report(RUN, made_up(4000), asked)
    assert report.status == "pass"
    assert "met</span>" in render_page(report, made_up(4000))
    assert report.early_stopping is not None
    assert (report.early_stopping.outcome, report.early_stopping.requests) == ("met", 2000)
    assert build_report(RUN, made_up(4000, errors=0.03), asked).status == "fail"
    assert build_report(RUN, made_up(1500), asked).status == "inconclusive"
    # 30 of the first 2,000 are too slow: as many as are allowed, and half again.
    late = made_up(4000)
    late = replace(late, latency_ms=np.where(np.isin(late.intended_s, np.sort(late.intended_s)[1900:1930]), 5000.0, late.latency_ms))
    stop = build_report(RUN, late.rows(np.argsort(late.ended_s)), _asked(early_stopping=EarlyStopping(limit_ms=30, looks=2), planned=4000))
    assert stop.early_stopping is not None
    assert (stop.early_stopping.outcome, stop.early_stopping.requests, stop.early_stopping.over) == ("open", 4000, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p99_ms", "NAME=NUMBER"),
        ("p98_ms=3", "p98_ms"),
        ("within_ms=3", "belong together"),
        ("rank:endpoint=x", "NAME"),
        ("p99_ms=-1", "greater"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_objective(text)


def test_an_objective_on_the_command_line_may_name_its_endpoint() -> None:
    assert parse_objective("p99_ms=50") == Objective(p99_ms=50)
    assert parse_objective("rank-arrow:p50_ms=5,max_error_pct=0.5") == Objective(endpoint="rank-arrow", p50_ms=5, max_error_pct=0.5)


def test_the_schema_holds_what_is_written() -> None:
    samples = made_up(300, errors=0.1, arms=("a", "b"))
    server = ServerSide(
        histograms=(Histogram(model="ads", version="1", status="200", upper_ms=(1, 8), requests=(3, 7), beyond=1, mean_ms=2.0),)
    )
    report = build_report(RUN, samples, _asked(KEPT), server)
    jsonschema.validate(report.model_dump(mode="json"), Report.model_json_schema(mode="serialization"))
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_the_page_shows_every_chart_that_has_data() -> None:
    samples = made_up(1500, errors=0.02, endpoints=("rank", "classify"), arms=("stable", "canary"))
    server = ServerSide(
        histograms=(Histogram(model="ads", version="1", status="200", upper_ms=(1, 8), requests=(3, 7), beyond=1, mean_ms=2.0),)
    )
    page = render_page(build_report(RUN, samples, _asked(KEPT), server), samples)
    assert page.count("<svg") == 7
    for heading in (
        "Objectives",
        "Latency over time",
        "Quantiles",
        "Throughput",
        "Errors",
        "What the service measured itself",
        "The load generator",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "was missing" not in page


def test_the_page_says_why_the_services_own_figures_are_missing() -> None:
    samples = made_up(100)
    page = render_page(build_report(RUN, samples, None, ServerSide(missing="GET /metrics was answered with HTTP 404")), samples)
    assert "Nothing to show: GET /metrics was answered with HTTP 404." in page
