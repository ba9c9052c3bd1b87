"""The ranking service with a fault, for canaries that must be stopped: started by `benchmarks.rollout`, never shipped.

``BENCHMARK_FAULT`` says which. The service itself has no such switch: its call of a model is wrapped here.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable

from benchmarks.faults import CRASH_ON_START, VARIABLE
from serving.services.lane_protocol import LaneCall
from serving.services.ranking import RankingService

TAIL_SHARE, TAIL_S = 0.06, 0.04
"""One request in 17 waits for 40 ms, some ten times what it takes: a lock, a cold cache, a pause for garbage. The median stays."""

SLOWER_S = 0.002
"""Every request."""

ERROR_SHARE = 0.02
GROWTH_BYTES = 128 * 1024
"""A request that is kept with its answer and all that hangs on it."""

ERROR_BODY = b'{"error": {"code": "internal_error", "message": "the fault of a benchmark"}}'

_kept: list[bytearray] = []
_begin = LaneCall.begin


def slow_tail(call: LaneCall) -> None:
    """Some requests wait."""
    if random.random() < TAIL_SHARE:
        call.protocol.loop.call_later(TAIL_S, _begin, call)
    else:
        _begin(call)


def slower(call: LaneCall) -> None:
    """All requests wait a little."""
    call.protocol.loop.call_later(SLOWER_S, _begin, call)


def errors(call: LaneCall) -> None:
    """Some requests fail."""
    if random.random() < ERROR_SHARE:
        call.release()
        call.protocol.reply(call, 500, ERROR_BODY, [(b"content-type", b"application/json")])
    else:
        _begin(call)


def memory_growth(call: LaneCall) -> None:
    """Every request leaves something behind."""
    _kept.append(bytearray(os.urandom(16) * (GROWTH_BYTES // 16)))
    _begin(call)


def dies_under_load(call: LaneCall) -> None:
    """The process ends with its 400th request."""
    _kept.append(bytearray())
    if len(_kept) >= 400:
        os._exit(1)
    _begin(call)


FAULTS: dict[str, Callable[[LaneCall], None]] = {
    each.__name__: each for each in (slow_tail, slower, errors, memory_growth, dies_under_load)
}

fault = os.environ.get(VARIABLE, "")
if fault == CRASH_ON_START:
    sys.exit("the fault of a benchmark: no such model")
if fault:
    LaneCall.begin = FAULTS[fault]  # type: ignore[method-assign, assignment]

__all__ = ["RankingService"]
