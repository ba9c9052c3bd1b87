"""The judge for those who roll out by other means: Argo Rollouts asks for a verdict, Flagger calls a webhook.

A small HTTP server beside the service loads both arms and judges, as a step of a rollout does. `GET /verdict` is for Argo's `web` metric,
which knows three answers: pass, fail, inconclusive. `POST /flagger` answers 200 or not, which is all Flagger knows: as a `rollout` hook,
only a failure is held against the canary; as a `confirm-promotion` hook (metadata `must: pass`), all but a pass keeps it waiting.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from k8s.errors import RolloutError
from k8s.rollout.jury import Jury, samples, together
from k8s.rollout.plan import Plan
from k8s.rollout.ports import Source, Traffic

MAX_BODY_BYTES = 65_536
"""Flagger's payload has some hundred bytes."""

OK, REFUSED, NOT_FOUND, TOO_LARGE = 200, 412, 404, 413


class Gate:
    """Judges one canary at a time; asked by one thread.

    Parameters
    ----------
    plan
        Its first step is what is judged; its arms are those of the addresses that `traffic` was made with.
    """

    def __init__(self, plan: Plan, traffic: dict[Source, Traffic]) -> None:
        self._plan, self._traffic = plan, traffic
        self._jury: Jury | None = None
        self._release = ""

    def verdict(self, release: str) -> dict[str, Any]:
        """Say what is known of the canary by now; a release that was not asked for before begins anew.

        Parameters
        ----------
        release
            What tells one canary from the next: Argo's pod hash, Flagger's checksum.
        """
        if self._jury is None or release != self._release:
            self._jury, self._release = Jury(self._plan, 1), release
            for traffic in self._traffic.values():
                traffic.begin(self._plan.steps[0], self._plan.arms)
        blind = []
        for source in self._plan.sources:
            try:
                look = self._traffic[source].look()
            except RolloutError as error:
                blind.append(str(error))
                continue
            if "canary" in look:
                self._jury.add(source, look["canary"])
        verdicts = self._jury.verdicts()
        status = together(verdicts)
        if blind and status == "pass":
            status = "inconclusive"
        sentence = " ".join([*blind, *(each.sentence for each in verdicts.values())])
        return {"status": status, "sentence": sentence, "samples": samples(verdicts), "release": release}

    def close(self) -> None:
        """Stop to load."""
        for traffic in self._traffic.values():
            traffic.end()


def serve(gate: Gate, host: str, port: int) -> HTTPServer:
    """Return a server of this gate; `serve_forever` runs it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/healthz":
                self._answer(OK, {"status": "ok"})
            elif path == "/verdict":
                self._answer(OK, gate.verdict(query.removeprefix("release=")))
            else:
                self._answer(NOT_FOUND, {"error": "there are /verdict?release=…, /flagger and /healthz"})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/flagger" or length > MAX_BODY_BYTES:
                self._answer(TOO_LARGE if length > MAX_BODY_BYTES else NOT_FOUND, {"error": "POST /flagger takes Flagger's payload"})
                return
            try:
                payload = json.loads(self.rfile.read(length) or b"{}")
                release = str(payload.get("checksum") or payload.get("name") or "")
                must_pass = (payload.get("metadata") or {}).get("must") == "pass"
            except (ValueError, AttributeError):
                self._answer(REFUSED, {"error": "the payload is no JSON object"})
                return
            found = gate.verdict(release)
            good = found["status"] == "pass" or (found["status"] == "inconclusive" and not must_pass)
            self._answer(OK if good else REFUSED, found)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of requests: each answer is in whoever asked."""

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    # One request after the other, in one thread: the load generator ends with the thread that began it.
    return HTTPServer((host, port), Handler)
