"""Two runs beside each other: intervals hold the truth, no change is not shown as one, and what cannot be compared is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from loadtests.cli import app
from loadtests.comparison import Change, Comparison, compare_runs, ratio_interval
from loadtests.comparison_page import render_comparison
from loadtests.report import build_report, write_report
from loadtests.samples import Samples, write_samples
from tests.load_samples import RUN, made_up


def _compared(a: Samples, b: Samples) -> Comparison:
    return compare_runs(("before", "after"), build_report(RUN, a), build_report(RUN, b))


def _change(comparison: Comparison, figure: str) -> Change:
    return next(change for change in comparison.parts[0].changes if change.figure == figure)


def test_a_slower_run_is_shown_with_its_ratio_inside_the_interval() -> None:
    change = _change(_compared(made_up(seed=1), made_up(seed=2, times=1.3)), "latency p50")
    assert change.shown
    assert change.low is not None
    assert change.high is not None
    assert 1 < change.low < 1.3 < change.high < 1.4


def test_intervals_hold_no_change_as_often_as_they_say() -> None:
    held, sure = 0, 0
    for seed in range(60):
        comparison = _compared(made_up(1500, seed=seed, errors=0.02), made_up(1500, seed=1000 + seed, errors=0.02))
        for figure in ("latency p50", "latency p99", "failed"):
            held += not _change(comparison, figure).shown
            sure += 1
    assert held >= 0.93 * sure


def test_more_failures_are_shown_as_points() -> None:
    change = _change(_compared(made_up(seed=1, errors=0.001), made_up(seed=2, errors=0.02)), "failed")
    assert (change.kind, change.shown) == ("difference", True)
    assert change.low is not None
    assert change.high is not None
    assert 0 < change.low < 1.9 < change.high


def test_what_too_few_requests_show_is_left_open() -> None:
    comparison = _compared(made_up(80), made_up(seed=2))
    assert _change(comparison, "latency p99").change is None
    assert ratio_interval(1.0, (0.9, None), 2.0, (1.8, 2.2)) == (
        2.0,
        None,
        pytest.approx(2.0 * np.exp(np.hypot(np.log(1.1), np.log(1 / 0.9)))),
    )


def test_parts_that_both_runs_have_are_compared_too() -> None:
    both = made_up(3000, endpoints=("rank", "classify"))
    comparison = _compared(both, made_up(3000, seed=3, endpoints=("classify", "infer")))
    assert [(part.endpoint, part.arm) for part in comparison.parts] == [(None, None), ("classify", None)]


def test_what_is_not_alike_is_said() -> None:
    late, closed = made_up(lag_ms=8), made_up(open_loop=False)
    cautions = _compared(late, replace(closed, cut_short=True)).cautions
    assert len(cautions) == 3
    assert "not valid" in cautions[0]
    assert "before its time" in cautions[1]
    assert "closed one" in cautions[2]
    assert _compared(closed, made_up(seed=2, open_loop=False)).cautions == ()


def test_the_command_writes_a_page_and_judges_nothing(tmp_path: Path) -> None:
    for name, samples in (("before", made_up(1000, seed=1)), ("after", made_up(1000, seed=2, times=3))):
        write_samples(samples, tmp_path / name / "samples.npz")
        write_report(build_report(RUN, samples), tmp_path / name / "report.json")
    arguments = ["compare", str(tmp_path / "before"), str(tmp_path / "after"), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert Comparison.model_validate_json(done.stdout) == Comparison.model_validate_json((tmp_path / "out/comparison.json").read_text())
    page = (tmp_path / "out/comparison.html").read_text()
    assert page.count("<svg") == 3
    assert re.search(r"<b>(2\.\d+|3(\.\d+)?) ×</b>", page)
    missing = CliRunner().invoke(app, ["compare", str(tmp_path / "before"), str(tmp_path / "absent")])
    assert missing.exit_code == 2
    assert "absent is no folder" in missing.output


def test_runs_without_an_endpoint_in_common_are_drawn_without_charts() -> None:
    a, b = made_up(300, endpoints=("rank",)), made_up(300, endpoints=("classify",))
    assert "<svg" not in render_comparison(_compared(a, b), (a, b))
