"""What the report shows beside the choice: where time goes, which layers are sensitive, what each technique brought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from optimize.search.budget import Budget
from optimize.search.builds import Builds
from optimize.search.cache import Cache, feeds_digest, key_of
from optimize.search.candidates import Candidate
from optimize.search.loops import Rates, measure_rates
from optimize.search.machine import cpu_identity
from optimize.search.plain_sessions import operator_times
from optimize.search.report import LayerSensitivity, OperatorTime, OptimizeReport
from optimize.search.sensitivity import sensitivities
from optimize.search.subject import Subject
from optimize.search.techniques import arms, techniques

Progress = Callable[[str, float], None]


def with_studies(
    report: OptimizeReport, subject: Subject, chosen: Candidate, builds: Builds, budget: Budget, cache: Cache, seed: int, progress: Progress
) -> OptimizeReport:
    """Return the report with what the studies found."""
    threads, size = report.machine.threads, report.decisive_size
    feeds = subject.timing[size]
    reference = Candidate(())
    of_pair = [builds.key(reference), builds.key(chosen), feeds_digest(feeds), cpu_identity()]

    def kept(kind: str, parts: Sequence[object], make: Callable[[], Any]) -> Any:
        key = key_of(kind, parts)
        held = cache.read("studies", key)
        if held is None:
            held = make()
            cache.write("studies", key, held)
        return held

    progress("sensitivity of layers", 0.0)
    layers = kept(
        "sensitivity",
        [builds.key(reference), subject.validation.fingerprint, budget.metric, cpu_identity(), threads],
        lambda: [one.model_dump() for one in sensitivities(subject.reference, subject.validation, budget.of, progress)],
    )
    progress("time of operators", 0.5)

    def profiled(candidate: Candidate) -> Any:
        parts = [builds.key(candidate), feeds_digest(feeds), cpu_identity(), threads]
        return kept("operators", parts, lambda: operator_times(builds.build(candidate), feeds, threads))

    before, after = profiled(reference), profiled(chosen)
    progress("the five techniques", 0.7)
    times = kept("arms", of_pair, lambda: arms(subject, builds.build(reference), builds.build(chosen), report.machine.cores, seed))
    rates = Rates(**kept("rates", [cpu_identity(), report.versions], lambda: asdict(measure_rates())))
    operators = [
        OperatorTime(operator=name, before_ms=before.get(name, 0.0), after_ms=after.get(name, 0.0)) for name in sorted({*before, *after})
    ]
    return report.model_copy(
        update={
            "sensitivity": tuple(LayerSensitivity(**one) for one in layers),
            "operators": tuple(sorted(operators, key=lambda one: -max(one.before_ms, one.after_ms))),
            "techniques": techniques(report.candidates, report.candidate(report.chosen), times, rates, report.machine, report.size_unit),
        }
    )
