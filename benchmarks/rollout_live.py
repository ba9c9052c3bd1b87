"""The users of a service that is rolled out: requests at a constant rate, whatever becomes of them, from a process of its own.

``python -m benchmarks.rollout_live PORT RATE REQUESTS OUT`` sends until it is told to end. One line of OUT is one request: intended time
(seconds since 1970), latency from then in ms, status (0: no answer), and the arm that answered.
"""

from __future__ import annotations

import http.client
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CALLERS = 16
"""Connections. At 50 requests a second of 2 ms one would do; in a stall of a second 50 are due, and wait here."""

TIMEOUT_S = 10.0
STOP_LIMIT_S = 15.0


@dataclass(frozen=True)
class Seen:
    """A request and what came of it."""

    intended_s: float
    latency_ms: float
    status: int
    arm: str


def send(port: int, rate_per_s: float, requests: Path, out: Path) -> None:
    """Send until SIGTERM, then wait for what is under way."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    bodies = requests.read_bytes().splitlines()
    due: queue.SimpleQueue[tuple[float, bytes] | None] = queue.SimpleQueue()
    with out.open("w", encoding="ascii", buffering=1) as sink:
        lock = threading.Lock()

        def call() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            while (next_one := due.get()) is not None:
                intended_s, body = next_one
                try:
                    connection.request("POST", "/v1/rank", body, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                    status, arm = answer.status, answer.headers.get("x-pilotage-arm", "-")
                except (OSError, http.client.HTTPException):
                    connection.close()
                    status, arm = 0, "-"
                with lock:
                    sink.write(f"{intended_s:.6f} {(time.time() - intended_s) * 1000:.3f} {status} {arm}\n")
            connection.close()

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        began_s, number = time.time(), 0
        while not ended.wait(max(began_s + number / rate_per_s - time.time(), 0)):
            due.put((began_s + number / rate_per_s, bodies[number % len(bodies)]))
            number += 1
        for _ in callers:
            due.put(None)
        for caller in callers:
            caller.join(2 * TIMEOUT_S)


class Live:
    """Live load that runs."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def seen(self, from_s: float = 0.0, to_s: float = float("inf")) -> list[Seen]:
        """Requests that were due in a time."""
        found = []
        for line in self._out.read_text(encoding="ascii").splitlines():
            intended_s, latency_ms, status, arm = line.split()
            if from_s <= float(intended_s) < to_s:
                found.append(Seen(float(intended_s), float(latency_ms), int(status), arm))
        return found


@contextmanager
def live_load(port: int, rate_per_s: float, requests: Path, out: Path) -> Iterator[Live]:
    """Send at a constant rate until the block ends."""
    out.touch()
    command = [sys.executable, "-m", "benchmarks.rollout_live", str(port), f"{rate_per_s:g}", str(requests), str(out)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    try:
        yield Live(out)
    finally:
        child.terminate()
        try:
            child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def failures(seen: list[Seen]) -> Counter[int]:
    """Failed requests by status."""
    return Counter(each.status for each in seen if each.status != 200)


if __name__ == "__main__":
    send(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
