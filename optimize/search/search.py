"""The search: cheap refusals first, then accuracy, then latency; the fastest inside the budget is chosen.

A candidate that cannot be built, judged or run is recorded with its reason, and the search goes on. What was found out is kept in a
`Cache`: a search that was killed goes on where it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from optimize.export.files import files_of
from optimize.search.budget import CONFIDENCE, Bootstrap, Budget, Change
from optimize.search.builds import Builds, Refused
from optimize.search.cache import Cache, feeds_digest, key_of, told
from optimize.search.candidates import Candidate, with_reference, without_remedy
from optimize.search.choice import choose, pareto
from optimize.search.explanation import explain
from optimize.search.machine import cpu_identity, describe_machine, package_versions
from optimize.search.measure import Latency, Samples, summary
from optimize.search.memory import peak_memory
from optimize.search.pairs import Ratio, ratio
from optimize.search.race import race
from optimize.search.report import BudgetRecord, CandidateRecord, OptimizeReport
from optimize.search.scores import Score, Scores
from optimize.search.studies import with_studies
from optimize.search.subject import Subject
from serving.runtime.session import GraphSession

SAME = 1e-6
"""Answers this near to the reference's, as a share of its largest, are the same answers in another order of float32 sums, and no
statistics is needed to say so; half of the tolerance of `optimize.export.parity` would still be five times as much."""

CHECKPOINT_S = 2.0

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes
    ----------
    budget
        The upper end of the change's interval may not exceed it.
    threads
        Threads of a run, those that the service will use.
    rounds
        Interleaved timing rounds.
    studies
        Whether to add what the report shows beside the choice, and memory.
    all_remedies
        Whether to try what saves accuracy (`optimize.search.candidates.REMEDIES`) where the same composition without it is inside
        the budget already.
    """

    budget: Budget = field(default_factory=Budget)
    threads: int = 1
    rounds: int = 60
    seed: int = 0
    studies: bool = True
    all_remedies: bool = False


@dataclass
class _Found:
    """What is known of a candidate so far."""

    candidate: Candidate
    path: Path | None = None
    size_bytes: int | None = None
    validation: Score | None = None
    test: Score | None = None
    change: Change | None = None
    test_change: Change | None = None
    refused: str | None = None
    rounds: tuple[float, ...] = ()
    latency: tuple[Latency, ...] = ()
    speedup: Ratio | None = None
    peak_memory_bytes: int | None = None


def search(
    subject: Subject, candidates: Sequence[Candidate], folder: Path, settings: SearchSettings, cache: Cache, progress: Progress
) -> OptimizeReport:
    """Try all candidates; put the graphs of those that may ship into `folder`, as `CandidateRecord.file`.

    Raises
    ------
    SubjectError
        The model or its data cannot be searched with.
    DiskError
        The disk is full; what was found so far is kept.
    """
    started = time.monotonic()
    subject.require(settings.budget.metric)
    listed = with_reference(candidates)
    builds = Builds(subject, cache, threads=settings.threads)
    scores = Scores(subject, settings.budget, builds, cache, threads=settings.threads)
    found = [_Found(candidate) for candidate in listed]
    _judge(found, builds, scores, settings, progress)
    builds.clear()
    allowed = [one for one in found if one.refused is None]
    _time(allowed, subject, builds, settings, cache, lambda what, share: progress(what, 0.5 + 0.3 * share))
    _weigh(allowed, subject, builds, settings, cache, lambda what, share: progress(what, 0.8 + 0.1 * share))
    records = [_record(one) for one in found]
    chosen, reason = choose(records, {one.candidate.name: one.rounds for one in allowed}, subject.decisive_size, subject.size_unit)
    front = pareto(records, subject.decisive_size)
    records = [record.model_copy(update={"pareto": record.name in front}) for record in records]
    for one in allowed:
        assert one.path is not None
        copy_graph(one.path, folder)
    looks = len(listed) - 1
    report = OptimizeReport(
        created_at=datetime.now(UTC),
        seconds=time.monotonic() - started,
        run=subject.name,
        data=subject.data,
        family=subject.family,
        rows={"validation": len(_score(found[0].validation).losses), "test": len(_score(found[0].test).losses)},
        fingerprints={"validation": subject.validation.fingerprint, "test": subject.test.fingerprint},
        budget=BudgetRecord(
            metric=settings.budget.metric,
            limit=settings.budget.limit,
            unit=settings.budget.of.unit,
            confidence=CONFIDENCE,
            looks=looks,
        ),
        parity_tolerance=subject.parity_tolerance,
        parity=subject.parity,
        size_unit=subject.size_unit,
        decisive_size=subject.decisive_size,
        candidates=tuple(records),
        chosen=chosen,
        reason=reason,
        explanation=explain(records, chosen, settings.budget, looks, subject.decisive_size, subject.size_unit),
        machine=describe_machine(settings.threads),
        versions=package_versions(),
    )
    if settings.studies:
        picked = next(one.candidate for one in found if one.candidate.name == chosen)

        def study(what: str, share: float) -> None:
            progress(what, 0.9 + 0.1 * share)

        report = with_studies(report, subject, picked, builds, settings.budget, cache, settings.seed, study)
    return report.model_copy(update={"seconds": time.monotonic() - started})


def _judge(found: Sequence[_Found], builds: Builds, scores: Scores, settings: SearchSettings, progress: Progress) -> None:
    """Build and score; the reference, which comes first, must pass."""
    looks = len(found) - 1
    bootstrap: dict[str, Bootstrap] = {}
    for number, one in enumerate(found):

        def step(what: str, number: int = number, name: str = one.candidate.name) -> None:
            progress(f"{name}: {what}", 0.5 * number / len(found))

        step("building and judging")
        plain = None if settings.all_remedies else without_remedy(one.candidate)
        if plain and any(other.refused is None and other.candidate.name == plain.name for other in found[:number]):
            one.refused = f"not tried: {plain.name} is inside the budget without a remedy, which brings accuracy and no speed"
            continue
        try:
            one.validation = scores.of(one.candidate, "validation")
            one.size_bytes = builds.size_bytes(one.candidate)
            if one.candidate.steps:
                _hold_to_budget(one, found[0], settings, bootstrap, looks)
            one.path = builds.build(one.candidate)
            one.test = scores.of(one.candidate, "test")
        except Refused as refused:
            if not one.candidate.steps:
                raise
            one.refused = str(refused)
            builds.forget(one.candidate)
            one.path = None
            continue
        if one.candidate.steps:
            sampled = _bootstrap(bootstrap, "test", len(one.test.losses), 1, settings.seed)
            one.test_change = sampled.change(settings.budget.of, _score(found[0].test).losses, one.test.losses)


def _hold_to_budget(one: _Found, reference: _Found, settings: SearchSettings, bootstrap: dict[str, Bootstrap], looks: int) -> None:
    before, after = _score(reference.validation), _score(one.validation)
    metric, limit = settings.budget.of, settings.budget.limit
    if after.differences.max_abs <= SAME * after.differences.largest:
        one.change = Change(0.0, 0.0, 0.0)
        return
    sampled = _bootstrap(bootstrap, "validation", len(after.losses), looks, settings.seed)
    one.change = sampled.change(metric, before.losses, after.losses)
    if not one.change.is_within(limit):
        shown = f"{metric.title} worse by {metric.show(one.change.value)}, maybe by up to {metric.show(one.change.high)}"
        raise Refused(f"{shown}; the budget is {metric.show(limit)}")


def _bootstrap(held: dict[str, Bootstrap], part: str, rows: int, looks: int, seed: int) -> Bootstrap:
    if part not in held:
        held[part] = Bootstrap(rows, looks=looks, seed=seed)
    return held[part]


def _time(allowed: Sequence[_Found], subject: Subject, builds: Builds, settings: SearchSettings, cache: Cache, progress: Progress) -> None:
    """Race those that are left: all for some rounds, those in reach of the fastest for the rest."""
    feeds = {size: feeds_digest(of_size) for size, of_size in subject.timing.items()}
    graphs = sorted(builds.key(one.candidate) for one in allowed)
    key = key_of(graphs, feeds, settings.threads, settings.rounds, settings.seed, cpu_identity())
    held = cache.read("latencies", key) or {"samples": [], "done": False}
    samples: Samples = {(name, size): values for name, size, values in held["samples"]}
    if not held["done"]:
        sessions = {one.candidate.name: GraphSession(_path(one), threads=settings.threads) for one in allowed}
        saved = time.monotonic()

        def on_round(taken: Samples) -> None:
            nonlocal saved
            rounds = max(map(len, taken.values()))
            progress(f"timing: round {rounds} of {settings.rounds}", rounds / settings.rounds)
            if time.monotonic() - saved >= CHECKPOINT_S:
                _keep(cache, key, taken, done=False)
                saved = time.monotonic()

        samples = race(
            sessions,
            subject.timing,
            subject.decisive_size,
            allowed[0].candidate.name,
            rounds=settings.rounds,
            seed=settings.seed,
            on_round=on_round,
            samples=samples,
        )
        _keep(cache, key, samples, done=True)
    for one in allowed:
        one.latency = tuple(summary(size, samples[one.candidate.name, size]) for size in subject.timing)
        one.rounds = tuple(samples[one.candidate.name, subject.decisive_size])
        one.speedup = ratio(allowed[0].rounds, one.rounds, looks=len(allowed) - 1)


def _weigh(allowed: Sequence[_Found], subject: Subject, builds: Builds, settings: SearchSettings, cache: Cache, progress: Progress) -> None:
    """Measure memory, one process a candidate."""
    if not settings.studies:
        return
    feeds = subject.timing[subject.decisive_size]
    for number, one in enumerate(allowed):
        progress(f"{one.candidate.name}: memory", number / len(allowed))
        key = key_of(builds.key(one.candidate), feeds_digest(feeds), settings.threads, cpu_identity())
        held = cache.read("memory", key)
        if held is None:
            held = {"bytes": peak_memory(_path(one), feeds, settings.threads)}
            cache.write("memory", key, held)
        one.peak_memory_bytes = held["bytes"]


def _keep(cache: Cache, key: str, samples: Mapping[tuple[str, int], list[float]], *, done: bool) -> None:
    cache.write("latencies", key, {"samples": [[name, size, values] for (name, size), values in samples.items()], "done": done})


def copy_graph(path: Path, folder: Path) -> None:
    """Copy a graph, and its weights, to `folder`. ONNX reads no weights from a file that has a second name: it takes that for an attack.

    Raises
    ------
    DiskError
        It cannot be written.
    """
    for file in files_of(path):
        target = folder / file.name
        with told(target):
            target.unlink(missing_ok=True)  # a run that maps the one before keeps it
            shutil.copyfile(file, target)


def _record(one: _Found) -> CandidateRecord:
    return CandidateRecord(
        name=one.candidate.name,
        file=one.path.name if one.path and one.refused is None else None,
        passes=tuple(step.name for step in one.candidate.steps),
        changes=one.candidate.changes,
        size_bytes=one.size_bytes,
        peak_memory_bytes=one.peak_memory_bytes,
        change=one.change,
        test_change=one.test_change,
        validation=one.validation.metrics if one.validation else {},
        test=one.test.metrics if one.test else {},
        differences=one.validation.differences if one.validation else None,
        latency=one.latency,
        speedup=one.speedup,
        refused=one.refused,
    )


def _score(score: Score | None) -> Score:
    assert score is not None, "the reference is always scored"
    return score


def _path(one: _Found) -> Path:
    assert one.path is not None, "what is not refused was built"
    return one.path
