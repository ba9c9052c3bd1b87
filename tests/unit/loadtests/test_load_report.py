"""Figures from samples: exact, honest about what is missing, and the same after a round trip."""

from __future__ import annotations

import re
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from loadtests.errors import NoSamples
from loadtests.page import render_page
from loadtests.quantiles import min_samples, quantile
from loadtests.recorder import MAX_ERROR_KINDS, OTHER_ERRORS, Recorder
from loadtests.report import Report, build_report, read_report, write_report
from loadtests.samples import Samples, write_samples
from serving.contract.errors import SettingsError
from tests.load_samples import RUN


def _samples(latencies_ms: list[float], *, errors: tuple[str | None, ...] = (None,), sizes: tuple[int, ...] = (100,)) -> Samples:
    recorder = Recorder()
    for row, latency_ms in enumerate(latencies_ms):
        recorder.sent += 1
        start_s, error = row * 0.01, errors[row % len(errors)]
        recorder.add(start_s, start_s, latency_ms, error, 200 if error is None else 500, "rank", 0, 300, sizes[row % len(sizes)])
    return recorder.samples()


def test_quantiles_are_the_nearest_rank() -> None:
    ordered = np.arange(1, 1001, dtype=np.float64)
    shares = {Fraction(1, 2): 500, Fraction(9, 10): 900, Fraction(95, 100): 950, Fraction(99, 100): 990, Fraction(999, 1000): 999}
    for share, expected in shares.items():
        assert quantile(ordered, share) == expected


def test_quantiles_agree_with_numpy_on_a_skewed_sample() -> None:
    ordered = np.sort(np.random.default_rng(0).lognormal(size=4321))
    for share in (Fraction(1, 2), Fraction(9, 10), Fraction(99, 100), Fraction(999, 1000)):
        assert quantile(ordered, share) == np.quantile(ordered, float(share), method="inverted_cdf")


def test_a_quantile_without_enough_samples_is_none_and_not_the_maximum() -> None:
    assert min_samples(Fraction(99, 100)) == 100
    assert quantile(np.arange(99.0), Fraction(99, 100)) is None
    assert quantile(np.arange(100.0), Fraction(99, 100)) == 98


def test_report_states_successes_and_failures_apart() -> None:
    report = build_report(RUN, _samples([10.0, 10.0, 10.0, 1.0] * 50, errors=(None, None, None, "HTTP 500")))
    assert (report.requests, report.failures, report.error_pct, report.errors) == (200, 50, 25.0, {"HTTP 500": 50})
    assert report.latency_ms is not None
    assert report.failed_latency_ms is not None
    assert (report.latency_ms.p99, report.latency_ms.max, report.failed_latency_ms.max) == (10.0, 10.0, 1.0)
    assert report.latency_ms.p99_9 is None
    assert report.duration_s == pytest.approx(1.991)
    assert report.throughput_rps == pytest.approx(150 / 1.991)
    assert (report.open_loop, report.status) == (False, "done")


def test_report_has_no_latencies_when_everything_failed() -> None:
    report = build_report(RUN, _samples([1.0] * 10, errors=("HTTP 500",)))
    assert (report.error_pct, report.throughput_rps, report.latency_ms) == (100.0, 0.0, None)
    page = render_page(report, _samples([1.0] * 10, errors=("HTTP 500",)))
    assert "Not one request was answered successfully" in page


def test_no_samples_are_refused_and_the_message_says_how_many_were_sent() -> None:
    recorder = Recorder()
    with pytest.raises(NoSamples, match="none was sent"):
        build_report(RUN, recorder.samples())
    recorder.sent = 3
    with pytest.raises(NoSamples, match="3 were sent and none ended"):
        build_report(RUN, recorder.samples())


def test_requests_cut_off_at_the_end_are_counted() -> None:
    recorder = Recorder()
    recorder.sent = 2
    recorder.add(0.0, 0.0, 1.0, None, 200, "rank", 0, 1, 20)
    assert build_report(RUN, recorder.samples()).unanswered == 1


def test_sizes_are_shown_one_by_one_or_grouped() -> None:
    def groups(samples: Samples) -> list[tuple[int, int, int]]:
        return [(group.min_size, group.max_size, group.requests) for group in build_report(RUN, samples).sizes]

    assert groups(_samples([1.0, 5.0] * 20, sizes=(20, 500))) == [(20, 20, 20), (500, 500, 20)]
    assert groups(_samples([1.0] * 60, sizes=tuple(range(1, 61)))) == [(1, 9, 9), (10, 49, 40), (50, 60, 11)]


def test_kinds_of_errors_are_bounded() -> None:
    samples = _samples([1.0] * 200, errors=tuple(f"HTTP {number}" for number in range(200)))
    assert len(samples.errors) == MAX_ERROR_KINDS + 1
    assert samples.errors[OTHER_ERRORS] == 200 - MAX_ERROR_KINDS
    assert build_report(RUN, samples).failures == 200


def test_report_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    report = build_report(RUN, _samples([1.0, 2.0, 3.0]))
    write_report(report, tmp_path / "new" / "report.json")
    assert read_report(tmp_path / "new" / "report.json") == report
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(SettingsError, match="cannot be read"):
        read_report(path)
    path.write_text('{"schema_version": 1}')
    with pytest.raises(SettingsError, match="schema_version"):
        read_report(path)


def test_a_report_that_does_not_add_up_is_refused() -> None:
    fields = build_report(RUN, _samples([1.0, 2.0])).model_dump()
    with pytest.raises(ValidationError, match="sum up"):
        Report.model_validate({**fields, "errors": {"HTTP 500": 1}})


def test_samples_are_written_without_pickle(tmp_path: Path) -> None:
    write_samples(_samples([1.5, 2.5], errors=(None, "HTTP 500")), tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as arrays:
        assert int(arrays["schema_version"]) == 2
        assert arrays["latency_ms"].tolist() == [1.5, 2.5]
        assert arrays["ok"].tolist() == [True, False]


class _Resources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and not (value or "").startswith(("#", "data:")):
                self.outside.append(f"<{tag} {name}={value}>")
        if tag in ("script", "iframe", "link", "object"):
            self.outside.append(f"<{tag}>")


@pytest.mark.parametrize("latencies_ms", [[3.0], [0.4 + 0.001 * (i % 700) for i in range(5000)], [2.0] * 300], ids=["one", "many", "equal"])
def test_page_needs_nothing_from_outside_and_gives_svg_ids_once(latencies_ms: list[float]) -> None:
    samples = _samples(latencies_ms, sizes=(20, 100, 500))
    page = render_page(build_report(RUN, samples), samples)
    resources = _Resources()
    resources.feed(page)
    assert resources.outside == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert page.count("<svg") == 4
    ids = re.findall(r'<(?:g|clipPath|path) id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_page_escapes_words_of_the_service() -> None:
    samples = _samples([1.0, 1.0], errors=(None, "HTTP 500 <script>alert(1)</script>"))
    page = render_page(build_report(RUN.model_copy(update={"model_name": "<b>x"}), samples), samples)
    assert "<script" not in page
    assert "<b>x" not in page


def test_page_says_that_the_loop_is_closed() -> None:
    samples = _samples([1.0, 1.0])
    assert "coordinated omission" in render_page(build_report(RUN, samples), samples)
