"""Sources that are made of prepared calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from loadtests.calls import LATE, Call
from loadtests.sources.weights import allot
from serving.contract.errors import SettingsError

FULL_CHECK_EVERY = 64
"""Answers of an endpoint of which one is held against its request: often enough that a service which mixes requests up is noticed
within a second, and too rare to cost the generator anything."""

MAX_POOL_BYTES = 512 * 1024 * 1024
"""Most memory of all bodies together: a generator is a guest on its machine."""

PERIOD = 10_000
"""Calls after which a mix repeats its order: 50 kB, and a weight of one in ten thousand still has its call."""


class Source(ABC):
    """What sources have in common: how answers are judged."""

    def __init__(self) -> None:
        self._judged: Counter[str] = Counter()

    @abstractmethod
    def call(self, index: int) -> Call:
        """Return the call of this number, from 0."""

    def failure(self, call: Call, status: int, headers: Mapping[str, str], body: bytes, latency_ms: float) -> str | None:
        """Return the kind of failure; one answer in `FULL_CHECK_EVERY` of an endpoint, the first among them, is checked in full."""
        in_full = self._judged[call.endpoint] % FULL_CHECK_EVERY == 0
        self._judged[call.endpoint] += 1
        kind = call.check(status, headers, body, in_full=in_full)
        if kind is None and call.deadline_ms is not None and latency_ms > call.deadline_ms:
            return LATE
        return kind


class Pool(Source):
    """Prepared calls, sent in their order and then again.

    Parameters
    ----------
    calls
        At least one.
    max_bytes
        Most memory of their bodies.

    Raises
    ------
    SettingsError
        The bodies take more than that; they are counted as they come, so that too many do not fill the memory first.
    """

    def __init__(self, calls: Iterable[Call], max_bytes: int = MAX_POOL_BYTES) -> None:
        super().__init__()
        self.size_bytes = 0
        kept: list[Call] = []
        for call in calls:
            self.size_bytes += len(call.body)
            if self.size_bytes > max_bytes:
                mean = self.size_bytes // (len(kept) + 1)
                raise SettingsError(
                    f"{call.endpoint}: {len(kept) + 1} bodies of {mean} bytes each take more than the {max_bytes} bytes "
                    "that are left for them; send fewer bodies, or smaller ones"
                )
            kept.append(call)
        if not kept:
            raise ValueError("a pool needs at least one call")
        self.calls = tuple(kept)

    def call(self, index: int) -> Call:
        """Return the call of this number."""
        return self.calls[index % len(self.calls)]


class Mix(Source):
    """Several sources, drawn by weight.

    Weights are kept exactly in every `PERIOD` calls, in an order that is drawn once. Which call of which source a number stands for is one
    look into two arrays, so numbers can be asked for in any order, and parted among processes.

    Parameters
    ----------
    parts
        Sources with their weights, at most 255.
    seed
        Of the order.
    """

    def __init__(self, parts: Sequence[tuple[Source, float]], seed: int) -> None:
        super().__init__()
        self._sources = [source for source, _ in parts]
        order = allot({place: weight for place, (_, weight) in enumerate(parts)}, PERIOD)
        draw = Random(seed).random  # noqa: S311 - an order, no secret
        order = [place for _, place in sorted((draw(), place) for place in order)]
        self._place = array("B", order)
        self._totals: Counter[int] = Counter()
        self._before = array("I")  # calls of the same source earlier in the period
        for place in order:
            self._before.append(self._totals[place])
            self._totals[place] += 1

    def call(self, index: int) -> Call:
        """Return the call of this number."""
        period, at = divmod(index, PERIOD)
        place = self._place[at]
        return self._sources[place].call(period * self._totals[place] + self._before[at])
