"""Carries out a saturation search: its runs one after the other, each with its report, and what they say together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console

from loadtests.arrivals import Poisson
from loadtests.generator import Order
from loadtests.judge.sentences import milliseconds, number
from loadtests.load_profile import LoadProfile
from loadtests.objectives import judge_samples
from loadtests.report import Report, Status
from loadtests.running import carry_out, progress_bars
from loadtests.samples import SAMPLES_NAME, read_samples
from loadtests.saturation import Saturation, Search, Trial, search, summed_up
from loadtests.saturation_page import write_saturation_page
from serving.contract.files import write_bytes

RESULT_NAME, PAGE_NAME = "saturation.json", "saturation.html"

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "invalid": "yellow"}


class _Interrupted(Exception):
    """Somebody ended the search."""


def search_and_report(order: Order, settings: Search, *, as_json: bool) -> tuple[Status, bool]:
    """Search, write ``saturation.json`` and its page; ``pass`` where a rate is known to keep the objectives.

    Raises
    ------
    PilotageError
        A run could not be carried out.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    done: list[Trial] = []
    with progress_bars() as bars:

        def run(rate_rps: float, samples: int) -> Trial:
            number_of = len(done) + 1
            folder = f"trial-{number_of:02d}"
            name = f"run {number_of} of at most {settings.max_trials}, {rate_rps:.4g}/s"
            profile = trial_profile(order.profile, rate_rps, samples, number_of)
            part = replace(order, profile=profile, out=order.out / folder, stream=None if order.stream is None else order.stream / folder)
            report, is_cut_short = carry_out(part, bars, name, settings.policy())
            if is_cut_short:
                raise _Interrupted
            trial = trial_of(report, part.out, settings, rate_rps, folder)
            done.append(trial)
            bars.console.print(
                f"  [{COLOURS[trial.status]}]{trial.status:12}[/] {rate_rps:8.4g}/s  {_figures(trial)}", highlight=False, soft_wrap=True
            )
            return trial

        is_cut_short = False
        try:
            found = search(settings, run)
        except _Interrupted:
            found, is_cut_short = summed_up(done, "interrupted"), True
    write_bytes(order.out / RESULT_NAME, (found.model_dump_json(indent=2) + "\n").encode())
    write_saturation_page(found, order.profile, order.host, order.out / PAGE_NAME)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    console.print(f"report: {order.out / RESULT_NAME} and .html", markup=False)
    console.print(found.sentence, style="bold", markup=False)
    return status_of(found), is_cut_short


def status_of(found: Saturation) -> Status:
    """``pass`` where a rate keeps the objectives, ``fail`` where even the lowest misses them."""
    if found.keeps_rps is not None:
        return "pass"
    return "inconclusive" if found.fails_rps is None else "fail"


def trial_profile(profile: LoadProfile, rate_rps: float, samples: int, trial: int) -> LoadProfile:
    """The profile of one run: another seed each time, so that no two runs share the luck of one schedule."""
    change = {"arrivals": Poisson(kind="poisson", rate_rps=rate_rps), "samples": samples, "saturation": None, "seed": profile.seed + trial}
    return LoadProfile.model_validate({**profile.model_dump(), **change})


def trial_of(report: Report, folder: Path, settings: Search, rate_rps: float, name: str) -> Trial:
    """What a run says about its rate; judged anew, since the search is stricter with each of its runs than a report."""
    samples, generator = read_samples(folder / SAMPLES_NAME), report.generator
    verdict = judge_samples(samples, report.asked.objectives, policy=settings.policy())
    assert verdict is not None
    is_valid = report.valid
    if not generator.valid and 2 * generator.starved > generator.late:
        # The service held all users: requests were late because it was slow, which is what the search looks for.
        held = judge_samples(replace(samples, open_loop=False, unsent=0, starved=0), report.asked.objectives, policy=settings.policy())
        if held is not None and held.status == "fail":
            verdict, is_valid = held, True
    latency = report.latency_ms
    return Trial(
        rate_rps=rate_rps,
        status=verdict.status if is_valid else "invalid",
        sentence=verdict.sentence,
        requests=report.requests,
        seconds=report.duration_s,
        achieved_rps=report.throughput_rps,
        p50_ms=None if latency is None else latency.p50,
        p99_ms=None if latency is None else latency.p99,
        p99_interval_ms=None if latency is None else latency.intervals.get("p99"),
        error_pct=report.error_pct,
        folder=name,
    )


def _figures(trial: Trial) -> str:
    quantiles = [
        f"{name} {'–' if value is None else milliseconds(value)}" for name, value in (("p50", trial.p50_ms), ("p99", trial.p99_ms))
    ]
    return f"{trial.requests:,} requests, {', '.join(quantiles)}, {number(trial.error_pct or 0)} % failed"
