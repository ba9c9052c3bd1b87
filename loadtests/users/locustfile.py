"""The load test as Locust runs it.

As in ::

    locust -f loadtests/users/locustfile.py --host http://127.0.0.1:3000 --arrivals poisson:200 -t 60s

with Locust's web page; with ``--headless``; with ``--processes 4``, or ``--master`` and ``--worker`` on several machines; ``--report-dir``
writes ``report.json``, ``report.html`` and ``samples.npz``. ``pilotage loadtest`` runs the same file.

Locust's users are a pool: each is one connection that sends what is due. In an open loop (any ``--arrivals`` but ``closed``) requests are
due by a schedule that was drawn before, and latency, on Locust's page too, counts from there. In a closed loop a user sends its next
request when it has the answer to the last one. See docs/loadtests.md.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from locust import User, events, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS
from locust.exception import CatchResponseError

from loadtests.users.control import Control
from loadtests.users.dispatch import Due
from loadtests.users.load_run import TIMEOUT_S
from loadtests.users.options import add_options

BACKOFF_S = 0.1
"""Wait of a closed loop after a request that got no answer at all: refused connections come back at once, and would be counted by the ten
thousand."""

CLIENT_TIMEOUT_S = TIMEOUT_S + 1
"""The client's own, which ours comes before: whatever is waited for, one kind of failure says so."""

Answer = tuple[int, Any, bytes, BaseException | None]
"""Status, headers, body and what went wrong; status 0 where there is no answer."""


class ServiceUser(User):
    """Sends what is due, one request at a time.

    It uses the client that is inside Locust's `FastHttpUser`, without what is around it (cookies, redirects): a request costs the generator
    half as much, 0.1 ms, and a redirect is an answer that was not asked for.
    """

    control: ClassVar[Control]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._due: Due | None = None
        self._clients: dict[str, HTTPClient] = {}

    def wait_time(self) -> float:
        """Wait for a request: Locust may end a user while it waits, and lets it finish while it works."""
        run = self.control.run
        self._due = None if run is None else run.dispatcher.take()
        # Without a test there is nothing to send; Locust starts users only within one.
        return 1.0 if run is None else 0.0

    @task
    def send(self) -> None:
        """Send it, and take down what came of it."""
        run, due = self.control.run, self._due
        if run is None or due is None:
            return  # a user's first task comes before its first wait
        self._due = None
        call, arm = run.source.call(due.index), run.arm(due)
        name, host, headers = run.target(call, arm)
        run.recorder.sent += 1
        started_s = run.now_s()
        status, told, content, broken = self._post(host, call.path, headers, call.body)
        intended_s = due.intended_s if run.open_loop else started_s
        latency_ms = (run.now_s() - intended_s) * 1000
        kind: str | None
        if broken is None:
            kind = run.source.failure(call, status, told, content, latency_ms)
        else:
            kind = f"{'answer cut short' if status else 'no answer'}: {type(broken).__name__}"
        run.recorder.add(intended_s, started_s, latency_ms, kind, status, call.endpoint, arm, len(content), call.size)
        # Locust's own figures tell the same story.
        self.environment.events.request.fire(
            request_type="POST",
            name=name,
            response_time=latency_ms,
            response_length=len(content),
            exception=None if kind is None else CatchResponseError(kind),
            context={},
        )
        if status == 0 and not run.open_loop:
            time.sleep(BACKOFF_S)

    def _post(self, host: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        status, told = 0, None
        try:
            # Over all, since the client's own timeouts begin anew with every byte that trickles in.
            with gevent.Timeout(TIMEOUT_S):
                response = self._client(host).request("POST", urlsplit(host).path + path, body, headers)
                status, told = response.get_code(), response.headers
                return status, told, bytes(response.read()), None
        except FAILURE_EXCEPTIONS as error:
            # What may still come on this connection belongs to no other request.
            self._clients.pop(host).close()
            return status, told, b"", error

    def _client(self, host: str) -> HTTPClient:
        if host not in self._clients:
            context = self.control.tls_context
            self._clients[host] = HTTPClient.from_url(
                host,
                concurrency=1,
                connection_timeout=CLIENT_TIMEOUT_S,
                network_timeout=CLIENT_TIMEOUT_S,
                ssl_context_factory=lambda: context,
            )
        return self._clients[host]


ServiceUser.control = Control()
hooks: Any = events
hooks.init_command_line_parser.add_listener(add_options)
hooks.init.add_listener(ServiceUser.control.prepare)
