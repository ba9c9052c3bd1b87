"""What the service itself counted while it was loaded: its ``/metrics`` before and after.

The difference of the two is what happened between them, whoever sent it. The client's times hold what the service cannot see: the network,
the kernel's queues, and the wait for a connection.
"""

from __future__ import annotations

import math
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

METRICS_PATH = "/metrics"

REQUEST_SECONDS, SHED = "pilotage_request_seconds", "pilotage_shed"
"""Names in ``serving/monitoring/metrics.py``, without what the text format adds."""

TIMEOUT_S = 5.0
"""A scrape takes milliseconds; Prometheus itself gives up after ten seconds."""

MAX_BYTES = 16 * 1024 * 1024
"""The service's own metrics are some 50 kB a model."""

Key = tuple[str, str, str]
"""Model, version, status; of requests that were shed, the reason in the place of the status."""


@dataclass(frozen=True)
class Scrape:
    """What ``/metrics`` said at one time.

    Attributes
    ----------
    buckets
        Requests at most as long as each upper bound in seconds, by model, version and status.
    sums_s
        Seconds in all.
    shed
        Requests that were not run, by model, version and reason.
    missing
        Why it could not be read; empty where it could.
    """

    buckets: Mapping[Key, Mapping[float, float]]
    sums_s: Mapping[Key, float]
    shed: Mapping[Key, float]
    missing: str = ""


class Histogram(BaseModel):
    """Requests of one model and status by the time that the service took.

    Attributes
    ----------
    upper_ms
        ``(B,)`` upper bounds of the buckets; requests beyond the last are in `beyond`.
    requests
        ``(B,)`` in each bucket.
    mean_ms
        None where there were none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str
    status: str
    upper_ms: tuple[float, ...]
    requests: tuple[int, ...]
    beyond: Annotated[int, Field(ge=0)]
    mean_ms: float | None

    @property
    def total(self) -> int:
        """Requests in all buckets."""
        return sum(self.requests) + self.beyond


class ServerSide(BaseModel):
    """The service's own account of a load test.

    Attributes
    ----------
    missing
        Why there is none; empty where there is.
    shed
        Requests that were not run, by reason.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    histograms: tuple[Histogram, ...] = ()
    shed: dict[str, int] = Field(default_factory=dict)
    missing: str = ""


def scrape(host: str, context: ssl.SSLContext | None = None) -> Scrape:
    """Read the metrics of the service at `host`; what keeps them from being had is said, not raised: the load test goes on without."""
    url = host.rstrip("/") + METRICS_PATH
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT_S) as answer:
            return parse(answer.read(MAX_BYTES).decode())
    except urllib.error.HTTPError as error:
        error.close()
        return Scrape({}, {}, {}, f"GET {url} was answered with HTTP {error.code}")
    except (OSError, ValueError) as error:
        return Scrape({}, {}, {}, f"GET {url} got no usable answer: {getattr(error, 'reason', error)}")


def parse(text: str) -> Scrape:
    """Read Prometheus' text format.

    Raises
    ------
    ValueError
        It is something else.
    """
    from prometheus_client.parser import text_string_to_metric_families

    buckets: dict[Key, dict[float, float]] = {}
    sums_s: dict[Key, float] = {}
    shed: dict[Key, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            key = (labels.get("model", ""), labels.get("version", ""), labels.get("status") or labels.get("reason", ""))
            if sample.name == f"{REQUEST_SECONDS}_bucket":
                buckets.setdefault(key, {})[float(labels["le"])] = sample.value
            elif sample.name == f"{REQUEST_SECONDS}_sum":
                sums_s[key] = sample.value
            elif sample.name == f"{SHED}_total":
                shed[key] = sample.value
    return Scrape(buckets, sums_s, shed)


def between(before: Scrape | None, after: Scrape | None) -> ServerSide:
    """What happened between two scrapes; None for one that was not made."""
    if before is None or after is None:
        return ServerSide(missing="the service's metrics were not asked for")
    if before.missing or after.missing:
        return ServerSide(missing=before.missing or after.missing)
    if not after.buckets:
        return ServerSide(missing=f"the metrics have no {REQUEST_SECONDS}: the service is no Pilotage service, or has answered nothing")
    histograms = []
    for key, bounds in sorted(after.buckets.items()):
        earlier = before.buckets.get(key, {})
        upto = [bounds[bound] - earlier.get(bound, 0.0) for bound in sorted(bounds)]
        if min(upto) < 0:
            return ServerSide(missing="the service was started anew during the test: its counts are smaller than before")
        counts = [round(more - less) for more, less in zip(upto, [0.0, *upto], strict=False)]
        total = sum(counts)
        if total:
            mean_ms = 1000 * (after.sums_s.get(key, 0.0) - before.sums_s.get(key, 0.0)) / total
            upper_ms = tuple(1000 * bound for bound in sorted(bounds) if not math.isinf(bound))
            within, beyond = counts[: len(upper_ms)], sum(counts[len(upper_ms) :])
            model, version, status = key
            histograms.append(
                Histogram(
                    model=model, version=version, status=status, upper_ms=upper_ms, requests=tuple(within), beyond=beyond, mean_ms=mean_ms
                )
            )
    shed: dict[str, int] = {}
    for key, count in after.shed.items():
        shed[key[2]] = shed.get(key[2], 0) + round(count - before.shed.get(key, 0.0))
    missing = "" if histograms else "the service counted no request between the start and the end of the test"
    return ServerSide(
        histograms=tuple(histograms), shed={reason: count for reason, count in sorted(shed.items()) if count}, missing=missing
    )
