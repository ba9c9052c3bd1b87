"""The gate's questions over HTTP.

``GET /verdict?release=…&step=…`` is for Argo's `web` metric, which knows three answers: pass, fail, inconclusive; a status above 2xx is an
error to it. ``POST /flagger`` answers 200 or not, which is all that Flagger knows: as a `rollout` hook only a failure is held against
the canary; as a `confirm-promotion` hook (metadata `must: pass`) all but a pass keeps it waiting.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from k8s.gate import Gate, Subject
from k8s.listening import CLIENT_LIMIT_S, SmallServer

MAX_BODY_BYTES = 65_536
"""Flagger's payload has some hundred bytes."""

MAX_NAME_CHARS = 256
"""Of a release or a step; hashes have 10."""

OK, WRONG, NOT_FOUND, LENGTH_REQUIRED, REFUSED, TOO_LARGE = 200, 400, 404, 411, 412, 413

ROUTES = "there are GET /verdict?release=…, POST /flagger and GET /healthz"


class GateServer(SmallServer):
    """Hands each question to the gate; no thread but the judging one touches the load."""

    def __init__(self, gate: Gate, host: str, port: int) -> None:
        self.gate = gate
        super().__init__(host, port, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: GateServer
    timeout = CLIENT_LIMIT_S

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/healthz":
            self._answer(OK, {"status": "ok"})
        elif path == "/verdict":
            self._verdict(query)
        else:
            self._answer(NOT_FOUND, {"error": ROUTES})

    def do_POST(self) -> None:
        if self.path.partition("?")[0] != "/flagger":
            self._answer(NOT_FOUND, {"error": ROUTES})
            return
        body = self._body()
        if body is not None:
            self._flagger(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests: each answer is in whoever asked."""

    def _verdict(self, query: str) -> None:
        try:
            given = parse_qs(query, max_num_fields=10, errors="strict")
        except ValueError as error:
            self._answer(WRONG, {"error": f"the query cannot be read: {error}"})
            return
        releases, steps = given.get("release", []), given.get("step", [""])
        if len(releases) != 1 or len(steps) != 1 or not _is_name(releases[0], steps[0]):
            told = f"say once what is asked about, /verdict?release={{{{args.latest-hash}}}}, in at most {MAX_NAME_CHARS} characters"
            self._answer(WRONG, {"error": told})
            return
        self._answer(OK, dict(self.server.gate.ask(Subject(releases[0], steps[0]))))

    def _body(self) -> bytes | None:
        """Return what was posted; None where that was refused already."""
        given = self.headers.get("Content-Length")
        if given is None:
            self._answer(LENGTH_REQUIRED, {"error": "the payload needs a Content-Length"})
        elif not (given.isascii() and given.isdigit()):
            self._answer(WRONG, {"error": "Content-Length is no number of bytes"})
        elif len(given) > len(str(MAX_BODY_BYTES)) or int(given) > MAX_BODY_BYTES:
            self._answer(TOO_LARGE, {"error": f"the payload has more than {MAX_BODY_BYTES} bytes"})
        else:
            return self.rfile.read(int(given))
        return None

    def _flagger(self, body: bytes) -> None:
        try:
            payload = json.loads(body)
            release, metadata = payload.get("checksum"), payload.get("metadata") or {}
            must, step = metadata.get("must", ""), metadata.get("step", "")
        except (ValueError, AttributeError, RecursionError):
            self._answer(WRONG, {"error": "the payload is not Flagger's: a JSON object with checksum, and maybe metadata"})
            return
        if not (isinstance(release, str) and isinstance(step, str) and _is_name(release, step)):
            # By the canary's name two releases could not be told apart: the second would get the verdict of the first.
            told = "the payload has no checksum, by which releases are told apart: this takes a Flagger that sends one"
            self._answer(WRONG, {"error": told})
            return
        if must not in ("", "pass"):
            self._answer(WRONG, {"error": f"metadata says must: {must!s:.20}; there is must: pass"})
            return
        found = self.server.gate.ask(Subject(release, step))
        good = found["status"] == "pass" or (found["status"] == "inconclusive" and must != "pass")
        self._answer(OK if good else REFUSED, dict(found))

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _is_name(release: str, step: str) -> bool:
    return 0 < len(release) <= MAX_NAME_CHARS and len(step) <= MAX_NAME_CHARS
