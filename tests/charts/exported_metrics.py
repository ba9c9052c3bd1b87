"""What the service exports, by a scrape of its own registry: every metric, its labels, and the values that they take."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.monitoring.metrics import ServiceMetrics

SHED_REASONS = ("overload", "deadline", "gone")
REFUSED = (400, 413, 422, 500, 503, 504)

TARGET_LABELS = {"namespace", "job", "pod", "arm", "instance", "container", "endpoint"}
"""What scraping adds to every series: prometheus-operator's own for a PodMonitor, and those that its relabelings set."""


@cache
def scrape() -> dict[str, dict[str, set[str]]]:
    """Series by name, with the values of each label, of a service that has ranked, classified, refused, shed, and loaded bundles."""
    registry = CollectorRegistry()
    metrics = ServiceMetrics(registry)
    ranking = metrics.bind_ranking("ranker", "1")
    clip = metrics.bind_clip("clip", "1")
    ranking.answered((0.0, 0.001, 0.002, 0.003, 0.004, 0.005), 100)
    clip.answered((0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006), 1, 10)
    for status in REFUSED:
        ranking.refused(status, 0.001)
    for reason in SHED_REASONS:
        ranking.shed(reason)
    ranking.ran(3)
    for outcome in ("loaded", "refused"):
        metrics.loaded("ranker", outcome)
    for bound in (ranking, clip):
        bound.flush()
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found[sample.name]
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
    return {name: dict(labels) for name, labels in found.items()}
