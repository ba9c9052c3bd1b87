"""The users' own requests, as Prometheus counted them: errors exactly, latencies by the buckets of the service's histogram.

What it cannot tell is not judged by it: two arms whose latencies differ within a bucket look alike, so that only limits which are edges of
buckets are taken, and requests between two looks have no order.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from k8s.cluster.names import Names
from k8s.errors import Refused, Unavailable
from k8s.rollout.arms import Arm
from k8s.rollout.plan_tables import Live, Step
from k8s.rollout.ports import Clock, Look
from loadtests.judge import Arm as Requests
from loadtests.judge import Batch

METRIC = "pilotage_request_seconds_bucket"

TIMEOUT_S = 10.0

FIRST_REFUSAL, FIRST_FAILURE = 400, 500
"""Statuses from which a request is refused as the caller's mistake, and from which it is the service's failure."""

Counts = dict[tuple[str, float], float]
"""(status, upper edge in seconds) → requests, cumulative over edges as Prometheus has them."""


@dataclass(frozen=True)
class PrometheusAccess:
    """How Prometheus is reached, or what speaks its API.

    Attributes
    ----------
    url
        Address, ``http://…`` or ``https://…``.
    token_file
        File whose first line is the bearer token; read for each question, since what mounts tokens changes them.
    ca_file
        Certificates (PEM) of the authorities to trust in place of the system's; read for each question too.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the series that a query has now.

        Raises
        ------
        Refused
            The address is none.
        Unavailable
            There is no answer, or a file cannot be read at this moment.
        """
        url = self.url.rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise Refused(f"{url} is no address of Prometheus: it begins with http:// or https://")
        request = urllib.request.Request(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")  # noqa: S310 - as just seen
        try:
            if self.token_file is not None:
                # Whoever is redirected to gets no token.
                request.add_unredirected_header("Authorization", f"Bearer {_first_line(self.token_file)}")
            context = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file is not None else None
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as response:  # noqa: S310 - as just seen
                document = json.load(response)
            series: list[dict[str, Any]] = document["data"]["result"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is the answer too, and holds the connection
            raise Unavailable(f"Prometheus at {url} does not answer: {error}") from error
        return series


class Prometheus:
    """Looks at live traffic; a `Traffic`.

    What belongs to this installation is selected by the labels that the chart's PodMonitor gives: namespace, and the full name as job.
    """

    def __init__(self, access: PrometheusAccess, live: Live, names: Names, clock: Clock) -> None:
        self._access, self._live, self._names, self._clock = access, live, names, clock
        self._arms: Sequence[Arm] = ()
        self._last: dict[Arm, Counts] | None = None
        self._looked_s = 0.0

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        """Begin to watch; what was before does not count."""
        self._arms, self._last, self._looked_s = tuple(arms), None, 0.0

    def look(self) -> Mapping[Arm, Look]:
        """Return what was counted since the last look."""
        now_s = self._clock.now_s()
        if not self._arms or now_s - self._looked_s < self._live.every_s:
            return {}
        counts = self._counts()
        last, since_s = self._last, self._looked_s
        self._last, self._looked_s = counts, now_s
        if last is None:
            return {}
        if not counts:
            raise Unavailable(f"Prometheus has no series {self._selector()}; labels of your own are `labels` in the plan's table [live]")
        seen = {arm: _grown(last.get(arm, {}), counts.get(arm, {})) for arm in self._arms}
        # Where counts shrank a pod went, and its counts with it: what came to this arm in between is not known.
        known = {arm: _requests(grown, since_s, now_s) for arm, grown in seen.items() if min(grown.values(), default=0) >= 0}
        beside = known.pop(self._arms[-1], None)
        if beside is None:
            return {}
        return {arm: Look(Batch(canary=canary, baseline=beside)) for arm, canary in known.items() if len(canary) or len(beside)}

    def end(self) -> None:
        """Stop to watch."""
        self._arms = ()

    def _counts(self) -> dict[Arm, Counts]:
        label = self._live.arm_label
        found: dict[Arm, Counts] = {}
        for series in self._access.ask(f"sum by ({label}, status, le) ({self._selector()})"):
            metric = series["metric"]
            arm = next((each for each in self._arms if each == metric.get(label)), None)
            if arm is not None:
                found.setdefault(arm, {})[(metric.get("status", ""), float(metric["le"]))] = float(series["value"][1])
        self._require_edges({edge for counts in found.values() for _, edge in counts})
        return found

    def _selector(self) -> str:
        chosen = {"namespace": self._names.namespace, "job": self._names.name} | self._live.labels
        labels = ",".join(f"{key}={json.dumps(value)}" for key, value in chosen.items())
        return f'{METRIC}{{{labels},{self._live.arm_label}=~"{"|".join(self._arms)}"}}'

    def _require_edges(self, edges: set[float]) -> None:
        limits: Any = self._live.objectives.get("quantile_limit", [])
        for table in limits if isinstance(limits, list) else [limits]:
            limit_s = float(table["limit_ms"]) / 1000
            if edges and not any(abs(edge - limit_s) < 1e-9 for edge in edges):
                known = ", ".join(f"{1000 * edge:g}" for edge in sorted(edges) if np.isfinite(edge))
                raise Refused(f"limit_ms {table['limit_ms']:g} is no edge of the histogram: nothing is known of it; edges are {known}")


def _first_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} holds no token")
    return lines[0]


def _grown(before: Counts, after: Counts) -> Counts:
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def _requests(grown: Mapping[tuple[str, float], float], since_s: float, now_s: float) -> Requests:
    """Make a request of each count, in the middle of its bucket; a share above or below an edge is then exactly what was counted."""
    latency_ms: list[float] = []
    statuses: list[int] = []
    for status in sorted({status for status, _ in grown}):
        below, lower = 0.0, 0.0
        for edge in sorted(edge for each, edge in grown if each == status):
            count = round(grown[status, edge] - below)
            below = grown[status, edge]
            middle = lower / 2 + edge / 2 if np.isfinite(edge) else 2 * lower
            latency_ms += [1000 * middle] * count
            statuses += [int(status) if status.isdigit() else 0] * count
            lower = edge
    n = len(statuses)
    mixed = np.random.default_rng(n).permutation(n)  # by status and bucket they came in no order that means anything
    status_of = np.array(statuses, dtype=np.int64)[mixed]
    return Requests(
        started_s=np.linspace(since_s, now_s, n, endpoint=False),
        latency_ms=np.array(latency_ms, dtype=np.float64)[mixed],
        ok=status_of < FIRST_FAILURE,
        refused=(status_of >= FIRST_REFUSAL) & (status_of < FIRST_FAILURE),
    )
