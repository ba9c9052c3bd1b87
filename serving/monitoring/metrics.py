"""Prometheus metrics of the service, right with one worker or several."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from serving.monitoring.accumulator import Accumulator, Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import CollectorRegistry, Histogram

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds in seconds. Answers take 0.3 to 10 ms here; BentoML's own buckets start at 5 ms."""

CANDIDATE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

IMAGE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)

LABEL_BUCKETS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000)

RUN_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

RANKING_STAGES = ("decode", "features", "queue", "run", "encode")
CLIP_STAGES = ("decode", "preprocess", "queue", "run", "text", "score")
"""What requests of each family go through. ``text`` is the wait for labels that were not embedded before, after the images have run."""


class ServiceMetrics:
    """Counters and histograms of one service.

    Every label has few values: models and versions that were loaded, statuses, stages, reasons.

    Made after BentoML has set ``PROMETHEUS_MULTIPROC_DIR``, never at import: ``prometheus_client`` decides
    between one process and several when it is first imported.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        import prometheus_client as prometheus

        _ask_for_the_process_once()
        registry = registry or prometheus.REGISTRY
        labels = ("model", "version")
        self.request_seconds = prometheus.Histogram(
            "pilotage_request_seconds",
            "Time from the whole body read, or the request refused before that, to the answer encoded.",
            (*labels, "status"),
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.stage_seconds = prometheus.Histogram(
            "pilotage_stage_seconds", "Time in one stage of a request.", (*labels, "stage"), buckets=BUCKETS_S, registry=registry
        )
        self.candidates = prometheus.Histogram(
            "pilotage_request_candidates", "Candidates a request.", labels, buckets=CANDIDATE_BUCKETS, registry=registry
        )
        self.images = prometheus.Histogram(
            "pilotage_request_images", "Images a request to classify.", labels, buckets=IMAGE_BUCKETS, registry=registry
        )
        self.asked_labels = prometheus.Histogram(
            "pilotage_request_labels", "Labels a request to classify.", labels, buckets=LABEL_BUCKETS, registry=registry
        )
        self.run_requests = prometheus.Histogram(
            "pilotage_run_requests", "Requests stacked into one run of the graph.", labels, buckets=RUN_BUCKETS, registry=registry
        )
        self.shed = prometheus.Counter(
            "pilotage_shed_total",
            "Requests that were not run: overload, deadline, or the caller gone.",
            (*labels, "reason"),
            registry=registry,
        )
        self.loads = prometheus.Counter(
            "pilotage_model_loads_total", "Bundles that were loaded, or refused.", ("model", "outcome"), registry=registry
        )

    def bind_ranking(self, model: str, version: str) -> BoundMetrics:
        """Resolve the labels of one model that ranks, so that a request looks nothing up."""
        return BoundMetrics(self, model, version, RANKING_STAGES, [(self.candidates, CANDIDATE_BUCKETS)])

    def bind_clip(self, model: str, version: str) -> BoundMetrics:
        """Resolve the labels of one model that classifies."""
        return BoundMetrics(self, model, version, CLIP_STAGES, [(self.images, IMAGE_BUCKETS), (self.asked_labels, LABEL_BUCKETS)])

    def loaded(self, model: str, outcome: str) -> None:
        """Record that a bundle of `model` was ``loaded`` or ``refused``."""
        self.loads.labels(model, outcome).inc()


class BoundMetrics:
    """Metrics of one model and version.

    Parameters
    ----------
    stages
        Of a request to this family.
    sizes
        What is counted of a request, with the upper bounds of its histogram.
    """

    def __init__(
        self, metrics: ServiceMetrics, model: str, version: str, stages: Sequence[str], sizes: Sequence[tuple[Histogram, Sequence[float]]]
    ) -> None:
        self._metrics = metrics
        self._labels = (model, version)
        self._ok = Accumulator(metrics.request_seconds.labels(model, version, "200"), BUCKETS_S)
        self._stages = tuple(Accumulator(metrics.stage_seconds.labels(model, version, stage), BUCKETS_S) for stage in stages)
        self._sizes = tuple(Accumulator(histogram.labels(model, version), bounds) for histogram, bounds in sizes)
        self._run_requests = Accumulator(metrics.run_requests.labels(model, version), RUN_BUCKETS)
        self._refused: dict[int, Accumulator] = {}
        self._shed: dict[str, Tally] = {}

    def flush(self) -> None:
        """Hand what was counted on to Prometheus' client; the service does it every `FLUSH_S`, and before it is scraped."""
        for accumulator in (self._ok, *self._stages, *self._sizes, self._run_requests, *self._refused.values()):
            accumulator.flush()
        for tally in self._shed.values():
            tally.flush()

    def answered(self, marks_s: tuple[float, ...], *sizes: int) -> None:
        """Record an answered request: the times before and after each of its stages, in seconds, and its sizes."""
        for stage, begin, end in zip(self._stages, marks_s, marks_s[1:], strict=False):
            stage.observe(end - begin)
        self._ok.observe(marks_s[-1] - marks_s[0])
        for accumulator, size in zip(self._sizes, sizes, strict=True):
            accumulator.observe(size)

    def refused(self, status: int, seconds: float) -> None:
        """Record a request that was not answered with 200."""
        found = self._refused.get(status)
        if found is None:
            found = self._refused[status] = Accumulator(self._metrics.request_seconds.labels(*self._labels, str(status)), BUCKETS_S)
        found.observe(seconds)

    def shed(self, reason: str) -> None:
        """Record a request that was not run: ``overload``, ``deadline`` or ``gone``."""
        found = self._shed.get(reason)
        if found is None:
            found = self._shed[reason] = Tally(self._metrics.shed.labels(*self._labels, reason))
        found.add()

    def ran(self, requests: int) -> None:
        """Record a run of the graph and how many requests were stacked in it."""
        self._run_requests.observe(requests)


def _ask_for_the_process_once() -> None:
    """Keep ``prometheus_client`` from asking the kernel for the process id at each of the twenty values that a request adds to.

    It does so for servers that fork after metrics were made; workers here are processes of their own from the start. Under overload
    it was an eighth of all time.
    """
    from prometheus_client import values

    if MULTIPROCESS in os.environ:
        process = os.getpid()
        values.ValueClass = values.MultiProcessValue(process_identifier=lambda: process)  # type: ignore[no-untyped-call]


def exposition() -> tuple[bytes, str]:
    """All metrics of all workers in Prometheus' text format, and its content type."""
    import prometheus_client as prometheus
    from prometheus_client import multiprocess

    if MULTIPROCESS not in os.environ:
        return prometheus.generate_latest(), prometheus.CONTENT_TYPE_LATEST
    registry = prometheus.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus.generate_latest(registry), prometheus.CONTENT_TYPE_LATEST
