"""A stand-in for a ranking service that fails as it is told: what a load test should find is known, because it was put there.

``python -m benchmarks.faulty_service '{"latency_ms": 5, "error_every": 20}'`` prints its port and serves until it is ended. It speaks
as much HTTP/1.1 as keep-alive clients need, answers ``/v1/models`` as our services do, and every ``POST`` with the same two candidates
(`REQUEST` asks for them). ``GET /injected`` tells how often each fault was made.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

HOST = "127.0.0.1"

REQUEST = '{"user":{},"context":{},"candidates":[{"id":"a"},{"id":"b"}],"top_k":2}'
"""The one line of a file of recorded requests that this service answers rightly."""

ANSWER = b'{"ranking":[{"id":"a","probability":0.75},{"id":"b","probability":0.25}]}'
UNUSABLE = b'{"ranking":[]}'
REFUSAL = b'{"error":{"code":"overloaded","message":"injected","violations":[]}}'

FEATURES = {"name": "stand-in", "fields": [{"kind": "categorical", "name": "brand", "part": "candidate", "buckets": 10, "dim": 2}]}
MODEL = {"name": "stand-in", "version": "1", "family": "ranking", "features": FEATURES, "max_candidates": 500}


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and how long what goes well takes. Requests are counted from 1; 0 is never.

    Attributes
    ----------
    latency_ms, spread
        Median of a log-normal time of an answer, and its σ.
    seed
        Of these times.
    slow_every, slow_ms
        Every n-th request takes this much longer, if it is answered with 200.
    error_every, reset_every, unusable_every
        Every n-th request is refused with 503, has its connection reset, or is answered without a ranking.
    stall_after, stall_s
        After so many requests the whole process stops once for so long, as in a garbage collection.
    cold_requests, cold_ms
        The first requests take this much longer.
    arm_ms
        By value of the header x-pilotage-arm: requests that take this much longer.
    certificate, key
        Files (PEM) to speak TLS with.
    """

    latency_ms: float = 1.0
    spread: float = 0.0
    seed: int = 0
    slow_every: int = 0
    slow_ms: float = 0.0
    error_every: int = 0
    reset_every: int = 0
    unusable_every: int = 0
    stall_after: int = 0
    stall_s: float = 0.0
    cold_requests: int = 0
    cold_ms: float = 0.0
    arm_ms: dict[str, float] = field(default_factory=dict)
    certificate: str = ""
    key: str = ""


class _Service:
    """Counts requests over all connections."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.requests = 0
        self.injected: Counter[str] = Counter()
        self.draw = random.Random(faults.seed)

    def turn(self, kind: str, every: int) -> bool:
        """Whether a fault is due with this request."""
        due = bool(every) and self.requests % every == 0
        self.injected[kind] += due
        return due

    def delay_ms(self, arm: str) -> float:
        """How long a request takes that is answered."""
        faults = self.faults
        delay_ms = faults.latency_ms * self.draw.lognormvariate(0, faults.spread) if faults.spread else faults.latency_ms
        if self.turn("slow", faults.slow_every):
            delay_ms += faults.slow_ms
        if self.requests <= faults.cold_requests:
            self.injected["cold"] += 1
            delay_ms += faults.cold_ms
        return delay_ms + faults.arm_ms.get(arm, 0.0)


class _Connection(asyncio.Protocol):
    """One client; answers in the order of its requests, of which only one is under way."""

    def __init__(self, service: _Service) -> None:
        self._service = service
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
        length = int(fields.get(b"content-length", b"0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        if head.startswith(b"GET "):
            documents = {b"/v1/models": {"models": [MODEL]}, b"/injected": dict(self._service.injected), b"/readyz": {}}
            document = documents.get(head.split(b" ", 2)[1])
            self._answer(b"404 Not Found" if document is None else b"200 OK", json.dumps(document).encode())
        else:
            self._rank(fields.get(b"x-pilotage-arm", b"").decode())

    def _rank(self, arm: str) -> None:
        service, faults = self._service, self._service.faults
        service.requests += 1
        if service.requests == faults.stall_after:
            service.injected["stall"] += 1
            time.sleep(faults.stall_s)  # the whole process, on purpose
        if service.turn("reset", faults.reset_every):
            self._reset()
        elif service.turn("error", faults.error_every):
            self._answer(b"503 Service Unavailable", REFUSAL)
        else:
            delay_ms = service.delay_ms(arm)
            content = UNUSABLE if service.turn("unusable", faults.unusable_every) else ANSWER
            asyncio.get_running_loop().call_later(delay_ms / 1000, self._answer, b"200 OK", content)

    def _answer(self, status: bytes, content: bytes) -> None:
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(content))
        self._transport.write(head + content)

    def _reset(self) -> None:
        """Close so that the client sees a reset and not an end."""
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()


async def _serve(faults: Faults) -> None:
    service, tls = _Service(faults), None
    if faults.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(faults.certificate, faults.key)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(service), HOST, 0, backlog=1024, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def faulty_service(faults: Faults) -> Iterator[str]:
    """Run one in a process of its own; its address."""
    command = [sys.executable, "-m", "benchmarks.faulty_service", json.dumps(asdict(faults))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield f"http{'s' if faults.certificate else ''}://{HOST}:{int(child.stdout.readline())}"
        finally:
            child.kill()


def injected(url: str) -> dict[str, int]:
    """How often each fault was made."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/injected", timeout=10) as answer:
        counts: dict[str, int] = json.load(answer)
        return counts


if __name__ == "__main__":
    asyncio.run(_serve(Faults(**json.loads(sys.argv[1]))))
