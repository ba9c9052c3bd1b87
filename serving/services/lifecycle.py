"""The end of a worker: readiness goes first, then the answers under way finish, then the process ends within a stated time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

log = logging.getLogger("pilotage")

EXIT_OVERDUE = 3
"""Status of a worker that ended although answers were under way: infrastructure, as with our commands."""


def drain_on_sigterm(on_drain: Callable[[], None], *, drain_s: float, grace_s: float) -> None:
    """Put a drain before what SIGTERM does now. Called on the event loop, once the server has set its handlers.

    Uvicorn stops listening as soon as SIGTERM comes, while routers still send: those requests would be lost. So first `on_drain`
    makes ``/readyz`` say no, for `drain_s` everything is answered as before, then the server's own handler runs, and after another
    `grace_s` the process ends whatever is under way. BentoML's supervisor alone would wait for a day.

    SIGINT, a person's Ctrl-C, is left as it is: it ends the server at once.
    """
    loop = asyncio.get_running_loop()
    stop: Any = signal.getsignal(signal.SIGTERM)
    if not callable(stop):
        log.warning("SIGTERM has no handler of the server to drain before")
        return
    begun = False

    def begin(number: int, frame: FrameType | None) -> None:
        nonlocal begun
        if begun:
            return
        begun = True
        loop.call_soon_threadsafe(drain)

    def drain() -> None:
        on_drain()
        log.info("draining", extra={"drain_s": drain_s, "grace_s": grace_s})
        loop.call_later(drain_s, end)

    def end() -> None:
        stop(signal.SIGTERM, None)
        loop.call_later(grace_s, overdue)

    def overdue() -> None:
        log.error("answers were still under way after %g s, ending all the same", grace_s)
        os._exit(EXIT_OVERDUE)

    signal.signal(signal.SIGTERM, begin)
