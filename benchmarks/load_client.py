"""A lean HTTP load: prepared requests over keep-alive connections, from one process that spins on its own core.

Locust is for load tests of a deployment; here the client must cost a small part of what the server does, and keep time to
microseconds. It speaks as much HTTP/1.1 as answers with a ``Content-Length`` need.

`closed` asks again on every connection as soon as it is answered, which finds the most that a server can do. `opened` sends at Poisson
times whatever the server does; latency counts from the intended time, so that waiting for a free connection is not omitted.
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from serving.contract.errors import PilotageError

HOST = "127.0.0.1"
RECEIVE_BYTES = 262_144
DRAIN_S = 5.0
"""How long to wait, at the end, for answers that are under way."""


class LoadFailed(PilotageError):
    """A server closed a connection or sent what is not an answer."""


@dataclass
class Outcome:
    """What came of a load.

    Attributes
    ----------
    latencies_s
        Status → latency of each answer.
    ended_s
        Status → when each was answered, seconds since the start.
    retry_after
        Answers with that header.
    seconds
        How long requests were sent.
    sent, answered
        Requests.
    gaps_s
        Before each answer, how long none had come while at least one request was under way.
    client_gap_s
        Longest time that this process itself did not look: what of the above may be the machine's.
    late_s
        Most that a request was sent after its time for want of a connection or of the client's time.
    """

    latencies_s: dict[int, list[float]] = field(default_factory=dict)
    ended_s: dict[int, list[float]] = field(default_factory=dict)
    retry_after: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    sent: int = 0
    answered: int = 0
    gaps_s: list[float] = field(default_factory=list)
    client_gap_s: float = 0.0
    late_s: float = 0.0

    def rate(self, status: int = 200, within_s: float = float("inf")) -> float:
        """Answers of this status a second, if need be only those that came in time."""
        return sum(latency <= within_s for latency in self.latencies_s.get(status, ())) / self.seconds


def prepare(path: str, bodies: Sequence[bytes], media: str = "application/json") -> list[bytes]:
    """Whole requests, head and body."""
    return [
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        for body in bodies
    ]


class Connection:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.intended_s = 0.0
        self._received = b""
        self._size = -1

    def send(self, request: bytes, intended_s: float) -> None:
        """Begin a request."""
        self.intended_s = intended_s
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes, bytes] | None:
        """Take what has come; status, head and body once the answer is whole.

        Raises
        ------
        LoadFailed
            The connection was closed, or the head has no length.
        """
        chunk = self.socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        if not chunk:
            raise LoadFailed("the server closed a connection on which a request was under way")
        self._received = self._received + chunk if self._received else chunk
        if self._size < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = self._received[:end].lower()
            _, found, length = head.partition(b"content-length:")
            if not found:
                raise LoadFailed(f"an answer has no Content-Length: {head[:200]!r}")
            self._size = end + 4 + int(length.partition(b"\r\n")[0])
        if len(self._received) < self._size:
            return None
        answer, self._received = self._received, b""
        self._size = -1
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head[9:12]), head.lower(), body


class Load:
    """Connections to one server, and the loop that serves them. A context manager: the connections live until its end.

    Parameters
    ----------
    requests
        Sent in turn.
    connections
        Opened at once; `opened` adds more where all of them are busy.
    """

    def __init__(self, port: int, requests: Sequence[bytes], connections: int = 1) -> None:
        self._port = port
        self._requests = requests
        self._poll = select.epoll()
        self._all: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._outcome = Outcome()
        self._started_s = self._progress_s = self._looked_s = 0.0
        for _ in range(connections):
            self._open()

    def __enter__(self) -> Self:
        """Nothing is sent yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        for connection in list(self._all.values()):
            self._close(connection)
        self._poll.close()

    def closed(self, seconds: float) -> Outcome:
        """Keep a request under way on every connection for `seconds`."""
        end_s = self._begin() + seconds
        now = self._started_s
        while now < end_s:
            while self._idle:
                self._send(self._idle.popleft(), now)
            now = self._look()
        return self._finish(seconds)

    def opened(self, rate: float, seconds: float, *, most_connections: int, seed: int) -> Outcome:
        """Send `rate` requests a second at Poisson times for `seconds`, over up to `most_connections`."""
        draw = random.Random(seed)
        end_s = self._begin() + seconds
        due_s = self._started_s + draw.expovariate(rate)
        now = self._started_s
        while now < end_s:
            while due_s <= now:
                if not self._idle:
                    if len(self._all) >= most_connections:
                        break
                    self._open()
                self._outcome.late_s = max(self._outcome.late_s, now - due_s)
                self._send(self._idle.popleft(), due_s)
                due_s += draw.expovariate(rate)
            now = self._look()
        return self._finish(seconds)

    def _begin(self) -> float:
        self._outcome = Outcome()
        self._started_s = self._looked_s = self._progress_s = time.perf_counter()
        return self._started_s

    def _open(self) -> None:
        connection = Connection(self._port)
        self._poll.register(connection.socket, select.EPOLLIN)
        self._all[connection.socket.fileno()] = connection
        self._idle.append(connection)

    def _send(self, connection: Connection, intended_s: float) -> None:
        if self._outcome.sent == self._outcome.answered:
            self._progress_s = time.perf_counter()
        connection.send(self._requests[self._outcome.sent % len(self._requests)], intended_s)
        self._outcome.sent += 1

    def _look(self) -> float:
        """Take the answers that have come; the time."""
        now = time.perf_counter()
        outcome = self._outcome
        outcome.client_gap_s = max(outcome.client_gap_s, now - self._looked_s)
        self._looked_s = now
        for number, _ in self._poll.poll(0):
            connection = self._all[number]
            answer = connection.receive()
            if answer is None:
                continue
            now = time.perf_counter()
            status, head, _ = answer
            outcome.latencies_s.setdefault(status, []).append(now - connection.intended_s)
            outcome.ended_s.setdefault(status, []).append(now - self._started_s)
            outcome.answered += 1
            outcome.retry_after[status] += b"\r\nretry-after:" in head
            outcome.gaps_s.append(now - self._progress_s)
            self._progress_s = now
            if b"\r\nconnection: close" in head:
                self._close(connection)
                self._open()
            else:
                self._idle.append(connection)
        return now

    def _finish(self, seconds: float) -> Outcome:
        """Wait for what is under way.

        Raises
        ------
        LoadFailed
            It does not come.
        """
        outcome = self._outcome
        outcome.seconds = seconds
        end_s = time.perf_counter() + DRAIN_S
        while outcome.answered < outcome.sent:
            if self._look() > end_s:
                raise LoadFailed(f"{outcome.sent - outcome.answered} requests had no answer {DRAIN_S:g} s after the last was sent")
        return outcome

    def _close(self, connection: Connection) -> None:
        self._poll.unregister(connection.socket)
        del self._all[connection.socket.fileno()]
        connection.socket.close()
