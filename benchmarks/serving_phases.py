"""The phases of `benchmarks.serving` and the figures that come of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from benchmarks.load_client import Outcome
from benchmarks.ranking import check_answer
from benchmarks.ranking_arms import make_bodies
from benchmarks.record import Aim, Figure
from benchmarks.services import Client, ServiceFailed
from benchmarks.serving_arms import ARMS, BARE, MAX_CANDIDATES, OURS, Arm, cores
from serving.contract.bundle import RankingBundle
from serving.features.columns import ColumnEncoder
from serving.features.requests import RequestDecoder
from serving.protocol.media import ARROW
from serving.runtime.session import GraphSession

Tell = Callable[[str, float], None]

SIZES = (1, 100, 500)
LOADED_SIZE = 100
DECISIVE_SIZE = 500
BODIES = 16
CONNECTIONS = 8
UTILIZATION = 0.6
OVERLOAD = 3.0
OVERLOAD_CONNECTIONS = 1024
"""With fewer, requests would wait for a connection in the client, where the service cannot refuse them."""

STEADY_CONNECTIONS = 32
OBJECTIVE_MS = 50.0
"""The service's default."""

STALL_MS = 20.0
MAX_OVERHEAD, MAX_TAIL, MIN_GOODPUT, MAX_ARROW = 1.3, 5.0, 0.9, 1.5
MAX_GROWTH_MB = 1.0
"""glibc's heap moves in steps of 128 KiB (``M_TOP_PAD``, ``M_TRIM_THRESHOLD``) and the interpreter's in arenas of 1 MiB (since 3.10): what
grows by less than one arena in hundreds of thousands of requests does not grow with them."""

MAX_OBJECTS = 100
"""Tracked objects: timers, the metrics of a status that was not seen before. One a request would be a hundred thousand."""


class Phases:
    """Measures arms that are running.

    Parameters
    ----------
    steady_s
        Length of the last phase.
    tell
        Told what is done and the share of the whole.
    """

    def __init__(self, arms: Mapping[str, Arm], bundle: RankingBundle, *, quick: bool, steady_s: float, tell: Tell) -> None:
        self._arms = arms
        self._bundle = bundle
        self._steady_s = steady_s
        self._tell = tell
        self._rounds, self._visit_s = (2, 0.3) if quick else (7, 1.0)
        self._draw = random.Random(0)
        spec = bundle.manifest.features
        with_ids = {size: make_bodies(spec, size, count=BODIES, seed=0) for size in SIZES}
        self._bodies = {size: [body for body, _ in of_size] for size, of_size in with_ids.items()}
        self._ids = {size: [ids for _, ids in of_size] for size, of_size in with_ids.items()}
        self.figures: list[Figure] = []
        self.aims: list[Aim] = []

    def measure(self) -> tuple[list[Figure], list[Aim]]:
        """Run all phases."""
        self._tell("checking the answers", 0.0)
        self._check()
        self._alone()
        saturation = self._saturation()
        decisive = median(self._saturation_of(OURS, DECISIVE_SIZE) for _ in range(self._rounds))
        self._open_loop(saturation)
        self._overload(LOADED_SIZE, saturation[OURS])
        self._overload(DECISIVE_SIZE, decisive)
        self._steady(UTILIZATION * saturation[OURS])
        return self.figures, self.aims

    def _check(self) -> None:
        for arm in self._arms.values():
            client = Client(arm.port, arm.path)
            for size in SIZES:
                for body, ids in zip(self._bodies[size], self._ids[size], strict=True):
                    check_answer(client.post(body), ids)
            client.close()

    def _alone(self) -> None:
        decoder, encoder = (RequestDecoder(self._bundle.manifest.features, MAX_CANDIDATES), ColumnEncoder(self._bundle.manifest.features))
        session = GraphSession(self._bundle.graph_path, threads=1)
        feeds = {size: [encoder.encode([decoder.decode(body)]) for body in self._bodies[size]] for size in SIZES}
        visits: dict[tuple[str, int], Callable[[], list[float]]] = {}
        for size in SIZES:
            for arm in self._arms.values():
                visits[arm.name, size] = self._one_at_a_time(arm, self._bodies[size])
            visits["session_run", size] = lambda size=size: _timed(session, feeds[size], self._visit_s)  # type: ignore[misc]
        arrow = [arrow_of(body) for body in self._bodies[DECISIVE_SIZE]]
        visits["pilotage_arrow", DECISIVE_SIZE] = self._one_at_a_time(self._arms[OURS], arrow, ARROW)
        samples: dict[tuple[str, int], list[list[float]]] = {key: [] for key in visits}
        for done in range(self._rounds):
            self._tell("one request at a time", 0.05 + 0.3 * done / self._rounds)
            for key in self._shuffled(list(visits)):
                samples[key].append(visits[key]())
        for (name, size), rounds in samples.items():
            self._tail(f"alone_{size}_{name}", np.concatenate(rounds), self._rounds)
        p50 = {key: [median(seconds) for seconds in rounds] for key, rounds in samples.items()}
        for size in SIZES:
            ours, bare, run = (p50[name, size] for name in (OURS, BARE, "session_run"))
            self._ratio(f"alone_{size}_latency_ratio", ours, bare)
            over_run = [[a - b for a, b in zip(values, run, strict=True)] for values in (ours, bare)]
            overhead = self._ratio(f"alone_{size}_http_overhead", *over_run)
            self.aims.append(Aim(f"alone_{size}_http_overhead", overhead, "x", MAX_OVERHEAD, at_most=True))
        arrow_ratio = self._ratio("arrow_over_session_run", p50["pilotage_arrow", DECISIVE_SIZE], p50["session_run", DECISIVE_SIZE])
        self.aims.append(Aim("arrow_over_session_run", arrow_ratio, "x", MAX_ARROW, at_most=True))

    def _one_at_a_time(self, arm: Arm, bodies: list[bytes], media: str = "application/json") -> Callable[[], list[float]]:
        def visit() -> list[float]:
            with arm.load(bodies, media) as load:
                load.closed(self._visit_s / 10)
                return _answered(load.closed(self._visit_s), arm)

        return visit

    def _saturation(self) -> dict[str, float]:
        rates: dict[str, list[float]] = {name: [] for name in ARMS}
        for done in range(self._rounds):
            self._tell("saturation", 0.35 + 0.1 * done / self._rounds)
            for name in self._shuffled(list(ARMS)):
                rates[name].append(self._saturation_of(name, LOADED_SIZE))
        for name, values in rates.items():
            self.figures.append(Figure(f"saturation_{name}", median(values), "requests/s", self._rounds))
        for name in ARMS[1:]:
            self._ratio(f"saturation_over_{name}", rates[OURS], rates[name])
        return {name: median(values) for name, values in rates.items()}

    def _saturation_of(self, name: str, size: int) -> float:
        """Most requests a second that 8 connections get answered; what is shed while the machine is taken away does not count."""
        arm = self._arms[name]
        with arm.load(self._bodies[size], connections=CONNECTIONS) as load:
            load.closed(self._visit_s / 10)
            outcome = load.closed(self._visit_s)
        _accepted(outcome, arm)
        return outcome.rate()

    def _open_loop(self, saturation: Mapping[str, float]) -> None:
        samples: dict[str, list[list[float]]] = {name: [] for name in ARMS}
        gaps: dict[str, float] = dict.fromkeys(ARMS, 0.0)
        shed: dict[str, int] = dict.fromkeys(ARMS, 0)
        for done in range(self._rounds):
            self._tell("open loop at 60 %", 0.45 + 0.15 * done / self._rounds)
            for name in self._shuffled(list(ARMS)):
                arm = self._arms[name]
                with arm.load(self._bodies[LOADED_SIZE], connections=STEADY_CONNECTIONS) as load:
                    seed = self._draw.randrange(2**31)
                    outcome = load.opened(
                        UTILIZATION * saturation[name], 2 * self._visit_s, most_connections=OVERLOAD_CONNECTIONS, seed=seed
                    )
                samples[name].append(_accepted(outcome, arm))
                shed[name] += outcome.answered - len(samples[name][-1])
                gaps[name] = max(gaps[name], *outcome.gaps_s)
        for name, rounds in samples.items():
            self._tail(f"open_loop_{name}", np.concatenate(rounds), self._rounds)
            self.figures.append(Figure(f"open_loop_{name}_longest_stall", gaps[name] * 1e3, "ms", self._rounds))
            self.figures.append(Figure(f"open_loop_{name}_shed", shed[name], "requests", self._rounds))

    def _overload(self, size: int, saturation: float) -> None:
        """Three times what can be done: what is accepted must be in time, the rest told at once."""
        self._tell(f"overload with {size} candidates", 0.6)
        arm, rate = self._arms[OURS], OVERLOAD * saturation
        with arm.load(self._bodies[size], connections=OVERLOAD_CONNECTIONS) as load:
            load.opened(rate, self._visit_s / 2, most_connections=OVERLOAD_CONNECTIONS, seed=1)
            outcome = load.opened(rate, 2 * self._visit_s, most_connections=OVERLOAD_CONNECTIONS, seed=2)
        if set(outcome.latencies_s) - {200, 429, 503}:
            raise ServiceFailed(f"under overload there were answers with {sorted(outcome.latencies_s)}")
        refused = [s for status, values in outcome.latencies_s.items() if status != 200 for s in values]
        told = sum(count for status, count in outcome.retry_after.items() if status != 200) / max(len(refused), 1)
        accepted_ms = np.array(outcome.latencies_s.get(200, [np.inf])) * 1e3
        p50, p99, longest = (float(value) for value in np.percentile(accepted_ms, (50, 99, 100)))
        goodput = outcome.rate(within_s=OBJECTIVE_MS / 1e3)
        for name, value, unit in (
            ("offered", outcome.sent / outcome.seconds, "requests/s"),
            ("goodput", goodput, "requests/s"),
            ("goodput_over_saturation", goodput / saturation, "x"),
            ("accepted_p50", p50, "ms"),
            ("accepted_p99", p99, "ms"),
            ("accepted_max", longest, "ms"),
            ("refused_p50", 1e3 * median(refused or [0.0]), "ms"),
            ("refused_with_retry_after", told, "share"),
        ):
            self._add(f"overload_{size}_{name}", value, unit)
        if size == DECISIVE_SIZE:
            self.aims += [
                Aim(f"overload_{size}_goodput_over_saturation", goodput / saturation, "x", MIN_GOODPUT),
                Aim(f"overload_{size}_accepted_p99", p99, "ms", OBJECTIVE_MS, at_most=True),
                Aim(f"overload_{size}_refused_with_retry_after", told, "share", 1.0),
            ]

    def _steady(self, rate: float) -> None:
        arm = self._arms[OURS]
        warm_s = max(self._steady_s / 10, 2.0)
        with arm.load(self._bodies[LOADED_SIZE], connections=STEADY_CONNECTIONS) as load:
            self._tell(f"warming up for {warm_s:.0f} s", 0.65)
            load.opened(rate, warm_s, most_connections=STEADY_CONNECTIONS, seed=2)
            before, rss_mb = arm.inside(), arm.rss_mb()
            stolen_s = stolen(cores()[0])
            self._tell(f"steady load for {self._steady_s:.0f} s", 0.7)
            outcome = load.opened(rate, self._steady_s, most_connections=STEADY_CONNECTIONS, seed=3)
            stolen_ms = 1e3 * (stolen(cores()[0]) - stolen_s)
            grown_mb, after = arm.rss_mb() - rss_mb, arm.inside()
        ms = np.array(_accepted(outcome, arm)) * 1e3
        self._tail("steady", ms / 1e3, 1)
        gaps_ms = np.array(outcome.gaps_s) * 1e3
        objects = after["objects"] - before["objects"]
        tail = float(np.percentile(ms, 99.9) / np.percentile(ms, 50))
        for name, value, unit in (
            ("requests", outcome.answered, "requests"),
            ("shed", outcome.answered - len(ms), "requests"),
            ("rate", rate, "requests/s"),
            ("p99.9_over_p50", tail, "x"),
            ("longest_stall", float(gaps_ms.max()), "ms"),
            ("stalls_over_20_ms", float((gaps_ms > STALL_MS).sum()), "stalls"),
            ("client_gap", outcome.client_gap_s * 1e3, "ms"),
            ("stolen", stolen_ms, "ms"),
            ("full_collections", after["collections"][2], "collections"),
            ("longest_collection", max(after["longest_ms"]), "ms"),
            ("rss", rss_mb, "MB"),
            ("rss_growth", grown_mb, "MB"),
            ("objects_growth", objects, "objects"),
        ):
            self._add(f"steady_{name}", float(value), unit)
        self.aims += [
            Aim("steady_p99.9_over_p50", tail, "x", MAX_TAIL, at_most=True),
            Aim("steady_longest_stall", float(gaps_ms.max()), "ms", STALL_MS, at_most=True),
            Aim("steady_rss_growth", grown_mb, "MB", MAX_GROWTH_MB, at_most=True),
            Aim("steady_objects_growth", objects, "objects", MAX_OBJECTS, at_most=True),
        ]

    def _tail(self, name: str, seconds: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]], rounds: int) -> None:
        ms = np.asarray(seconds) * 1e3
        for label, value in (*zip(("p50", "p99", "p99.9"), np.percentile(ms, (50, 99, 99.9)), strict=True), ("max", ms.max())):
            self.figures.append(Figure(f"{name}_{label}", float(value), "ms", rounds))

    def _ratio(self, name: str, above: Sequence[float], below: Sequence[float]) -> float:
        """Median of the rounds' ratios."""
        value = median(a / b for a, b in zip(above, below, strict=True))
        self.figures.append(Figure(name, value, "x", len(above)))
        return value

    def _add(self, name: str, value: float, unit: str) -> None:
        self.figures.append(Figure(name, value, unit, 1))

    def _shuffled(self, items: list[object]) -> list:  # type: ignore[type-arg]
        self._draw.shuffle(items)
        return items


def arrow_of(body: bytes) -> bytes:
    """The same request as an Arrow stream."""
    import msgspec

    document = msgspec.json.decode(body)
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pylist([document])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def stolen(of: frozenset[int], stat: Path = Path("/proc/stat")) -> float:
    """Seconds since boot that the hypervisor ran something else on these cores."""
    wanted = {f"cpu{core}" for core in of}
    ticks = sum(int(line.split()[8]) for line in stat.read_text().splitlines() if line.split()[0] in wanted)
    return ticks / 100  # USER_HZ, 100 on every architecture of Linux


def _answered(outcome: Outcome, arm: Arm) -> list[float]:
    """Latencies of a load that must have been answered with 200 alone.

    Raises
    ------
    ServiceFailed
        Another status, or nothing.
    """
    if set(outcome.latencies_s) != {200}:
        counts = {status: len(values) for status, values in outcome.latencies_s.items()}
        raise ServiceFailed(f"{arm.name} answered {counts or 'nothing'}, all should be 200")
    return outcome.latencies_s[200]


def _accepted(outcome: Outcome, arm: Arm) -> list[float]:
    """Latencies of those that were answered with 200; the others were shed.

    Raises
    ------
    ServiceFailed
        A status that is neither 200 nor a refusal for load.
    """
    if set(outcome.latencies_s) - {200, 503}:
        raise ServiceFailed(f"{arm.name} answered with {sorted(outcome.latencies_s)}")
    return outcome.latencies_s.get(200, [])


def _timed(session: GraphSession, feeds: Sequence[Mapping[str, np.ndarray]], seconds: float) -> list[float]:
    taken: list[float] = []
    end_s = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end_s:
        session.run(feeds[len(taken) % len(feeds)])
        taken.append(time.perf_counter() - started)
    return taken
