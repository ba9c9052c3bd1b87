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

from locust import FastHttpUser, events, task

from loadtests.users.control import Control
from loadtests.users.dispatch import Due
from loadtests.users.load_run import TIMEOUT_S
from loadtests.users.options import add_options

BACKOFF_S = 0.1
"""Wait of a closed loop after a request that got no answer at all: refused connections come back at once, and would be counted by the ten
thousand."""


class ServiceUser(FastHttpUser):
    """Sends what is due, one request at a time."""

    network_timeout = TIMEOUT_S
    connection_timeout = TIMEOUT_S
    control: ClassVar[Control]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._due: Due | None = None

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
        name, address, headers = run.target(call, arm)
        payload: Any = call.body  # bytes are sent as they are; Locust's annotation only knows text
        run.recorder.sent += 1
        started_s = run.now_s()
        with self.client.post(address, data=payload, headers=headers, name=name, catch_response=True) as answer:
            latency_ms = (run.now_s() - (due.intended_s if run.open_loop else started_s)) * 1000
            broken = answer.request_meta["exception"]
            # Locust's stand-in for an answer that never came has no status that could be asked for.
            status = answer.status_code if vars(answer).get("_response") is not None else 0
            content = b"" if status == 0 or (status == 200 and broken is not None) else answer.content or b""
            kind: str | None
            if status == 0:
                kind = f"no answer: {_cause(broken)}"
            elif status == 200 and broken is not None:
                kind = f"answer cut short: {_cause(broken)}"
            else:
                kind = run.source.failure(call, status, answer.headers or {}, content, latency_ms)
            # Locust's own figures are to tell the same story: its response time begins with sending.
            answer.request_meta["response_time"] = latency_ms
            intended_s = due.intended_s if run.open_loop else started_s
            run.recorder.add(intended_s, started_s, latency_ms, kind, status, call.endpoint, arm, len(content), call.size)
            if kind is None:
                answer.success()
            else:
                answer.failure(kind)
        if status == 0 and not run.open_loop:
            time.sleep(BACKOFF_S)


def _cause(error: Exception | None) -> str:
    """Name what went wrong; the client wraps it ("retries exceeded") though nothing is retried here."""
    return type(getattr(error, "original", None) or error).__name__


ServiceUser.control = Control()
hooks: Any = events
hooks.init_command_line_parser.add_listener(add_options)
hooks.init.add_listener(ServiceUser.control.prepare)
