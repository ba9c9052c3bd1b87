"""The proof of the judge: ``python -m benchmarks.judge [--quick] [--seed N] [--only TEXT] [--json] [--plots FOLDER]``.

Thousands of canaries are judged while their requests come in, with a look every 50 requests an arm: healthy ones over log-normal,
heavy-tailed, bimodal, autocorrelated, bursty, stalling and recorded latencies, with failures that come alone or together, and ones that are
slower, have a longer tail, stall or fail; some at the small risk of a false alarm that is left for one of thirty steps and releases.
Beside our judge stand the threshold rule (as Flagger and Argo Rollouts have it) and the Mann-Whitney rule (as Kayenta has it) on the same
traces, and where it tells something the power of the best test that knows both distributions and looks once (`judge_bounds`).

For every trial: ``…|judge`` is the share of canaries for which an alarm was raised, ``…|median`` after how many requests an arm half of the
harmed ones were found, ``…|bound`` what the best test could raise. `--quick` tries fewer canaries of fewer kinds.
Everything is drawn with fixed seeds: two runs print the same figures, and `--seed` draws others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.command import Tell, report
from benchmarks.judge_bounds import RUNS as BOUND_RUNS
from benchmarks.judge_cases import TRIALS, Trial
from benchmarks.judge_rules import judge, mann_whitney, threshold
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of
from loadtests.judge import Arm, Batch, Judge, Policy

PACKAGES = ("numpy", "scipy")
QUICK_CANARIES, QUICK_RIVALS = 150, 60
PASSES_AT = (1000, 2000, 3000, 5000, 7000, 10_000)


def tried(trial: Trial, *, quick: bool, seed: int = 0) -> list[Figure]:
    """Figures of one trial."""
    canaries = min(trial.canaries, QUICK_CANARIES) if quick else trial.canaries
    rivals = min(trial.rivals, QUICK_RIVALS if quick else canaries, canaries)
    arms = trial.arms(canaries, seed)
    outcome = judge(arms, PASSES_AT if trial.passes else (), Policy(false_alarm=trial.risk))
    alarms = outcome.failed
    figures = [Figure(f"{trial.name}|judge", 100 * float((alarms > 0).mean()), "%", canaries)]
    if not trial.healthy and (alarms > 0).mean() > 0.5:
        figures.append(Figure(f"{trial.name}|median", float(np.median(np.where(alarms > 0, alarms, np.inf))), "requests", canaries))
    if trial.passes:
        for seen in PASSES_AT:
            share = float(((outcome.passed > 0) & (outcome.passed <= seen)).mean())
            figures.append(Figure(f"{trial.name}|passed by {seen}", 100 * share, "%", canaries))
    some = arms.part(slice(0, rivals))
    if rivals and (trial.harm is not None or trial.healthy):
        true_p99 = trial.traffic.quantile(0.99)
        figures.append(Figure(f"{trial.name}|threshold", 100 * float((threshold(some, true_p99) > 0).mean()), "%", rivals))
        figures.append(Figure(f"{trial.name}|mann_whitney", 100 * float((mann_whitney(some) > 0).mean()), "%", rivals))
    if trial.bound is not None:
        figures.append(Figure(f"{trial.name}|bound", trial.bound(), "%", BOUND_RUNS))
    return figures


def passes_without_data() -> int:
    """Verdicts that pass though nothing can be known: no requests, one arm only, few, silent, missing, or a late generator."""
    generator = np.random.default_rng(0)

    def arm(count: int, first_s: float = 0.0, lag_ms: float = 0.0, missing: int = 0) -> Arm:
        latency = np.asarray(np.exp(0.5 * generator.standard_normal(count)), dtype=np.float64)
        latency[:missing] = np.nan
        return Arm(
            np.asarray(first_s + 0.01 * np.arange(count), np.float64), latency, np.ones(count, dtype=bool), lag_ms=np.full(count, lag_ms)
        )

    fed: tuple[tuple[Batch, ...], ...] = (
        (),
        (Batch(),),
        (Batch(canary=arm(6000)),),
        (Batch(baseline=arm(6000)),),
        (Batch(arm(100), arm(6000)),),
        (Batch(arm(6000), arm(6000)), Batch(baseline=arm(300, first_s=60.0))),
        (Batch(arm(6000), arm(6000)), Batch(canary=arm(300, first_s=60.0))),
        (Batch(arm(6000, missing=100), arm(6000)),),
        (Batch(arm(6000, lag_ms=50.0), arm(6000, lag_ms=50.0)),),
    )
    passed = 0
    for batches in fed:
        asked = Judge()
        for batch in batches:
            asked.add(batch)
        passed += asked.verdict().status == "pass"
    return passed


def run(*, quick: bool, plots: Path | None, tell: Tell, seed: int = 0, only: str = "") -> Record:
    """Try everything whose name holds `only`."""
    trials = [trial for trial in TRIALS if (trial.in_quick or not quick) and only in trial.name]
    figures: list[Figure] = []
    aims: list[Aim] = []
    work = np.cumsum([0, *(trial.count * trial.canaries for trial in trials)])
    for number, trial in enumerate(trials):
        tell(trial.name, float(work[number] / work[-1]))
        found = tried(trial, quick=quick, seed=seed)
        figures += found
        if trial.aim_pct is not None:
            aims.append(Aim(found[0].name, found[0].value, "%", trial.aim_pct, at_most=trial.healthy))
    tell("no data", 0.99)
    passes = passes_without_data()
    figures.append(Figure("passes without data", passes, "verdicts", 9))
    aims.append(Aim("passes without data", passes, "verdicts", 0, at_most=True))
    if plots is not None:
        from benchmarks.judge_plots import draw

        draw(figures, plots)
    return Record(machine_of(1), versions_of(PACKAGES), tuple(figures), tuple(aims))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aims are met, 3 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description="False alarms and power of the judge and its rivals.")
    parser.add_argument("--quick", action="store_true", help="fewer canaries of fewer kinds: ends within 60 s")
    parser.add_argument("--seed", type=int, default=0, help="of the traces; with another one, what was found is confirmed  [default: 0]")
    parser.add_argument("--only", default="", metavar="TEXT", help="only canaries whose name holds this, as 'bursts'")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    parser.add_argument("--plots", type=Path, default=None, help="folder to draw the figures into")
    options = parser.parse_args(arguments)
    chosen = {"quick": options.quick, "plots": options.plots, "seed": options.seed, "only": options.only}
    return report(lambda tell: run(**chosen, tell=tell), "the judge and its rivals: alarms", as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
