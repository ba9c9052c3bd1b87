"""The routes that rank: the hot path, with no framework between the socket and the graph.

One request goes: read → admit → decode → features → queue → run → encode. Nothing is spent on a request before it is admitted
but reading it. `RankingRoute.answer` does what can be done at once, and the queue calls back with the result, all of it on the event
loop's thread.
"""

from __future__ import annotations

import time
from abc import abstractmethod

from serving.contract.errors import DeadlineExceeded, MethodNotAllowed, Overloaded, RequestError, ServingError, UnsupportedMedia
from serving.monitoring.metrics import RANKING_STAGES
from serving.protocol.media import ARROW, JSON, media_type, negotiate
from serving.protocol.open_inference import infer_error
from serving.services.exchange import Call, Headers, deadline_of
from serving.services.forms import Form, Probabilities
from serving.services.model_route import ModelRoute, Target
from serving.services.served import RankingModel


class RankingRoute(ModelRoute[RankingModel]):
    """What the routes to a ranking model have in common; their forms differ."""

    kind = RankingModel
    stages = RANKING_STAGES
    sizes = ("candidates",)

    def early_refusal(self, headers: Headers, target: Target) -> Overloaded | DeadlineExceeded | None:
        """Guess the candidates from the length of the body."""
        length = headers.get(b"content-length")
        if length is None or not length.isdigit():
            return None
        try:
            model = self._catalog.find(RankingModel, *target)
            form = self.form(model, headers)
            deadline_s = deadline_of(headers, time.perf_counter())
        except (ServingError, RequestError):
            return None  # `answer` says it, when the body is there
        return model.queue.refusal(int(length) / form.bytes_per_candidate, deadline_s)

    def answer(self, call: Call, body: bytes, target: Target) -> None:
        """Do all but the run at once, and the answer when it comes."""
        asked = self._begin(call, target)
        try:
            if call.method != "POST":
                raise MethodNotAllowed(f"this route takes POST, not {call.method}")
            model = asked.model = self._catalog.find(RankingModel, *target)
            form = self.form(model, call.headers)
            media = negotiate(call.headers.get(b"accept"), form.answers)
            deadline_s = deadline_of(call.headers, call.began_s)
            body = self.bounds.plain(call.headers, body)
            ticket = model.queue.admit(len(body) / form.bytes_per_candidate, deadline_s, call.gone)
            try:
                read = time.perf_counter()
                request = form.decode(body, call.headers)
                decoded = time.perf_counter()
                encoded = form.encode(request)
                gathered = time.perf_counter()
            except BaseException:
                model.queue.abandon(ticket)
                raise
        except Exception as error:
            self._refuse(asked, error)
            return
        size_bytes = len(body)

        def deliver(result: Probabilities | Exception) -> None:
            try:
                if isinstance(result, Exception):
                    raise result
                written = form.answer(request, result, asked.request_id, media)
            except Exception as error:
                self._refuse(asked, error)
                return
            form.bytes_per_candidate += (size_bytes / encoded.candidates - form.bytes_per_candidate) / 64
            marks = (read, decoded, gathered, ticket.run_started_s, ticket.run_ended_s, time.perf_counter())
            model.metrics.answered(marks, encoded.candidates)
            self._reply(asked, 200, written.content, [(b"content-type", written.media), *written.headers], marks, encoded.candidates)

        model.queue.put(ticket, encoded, encoded.candidates, deliver)

    @abstractmethod
    def form(self, model: RankingModel, headers: Headers) -> Form:
        """Choose the form of the body; raises `UnsupportedMedia`."""


class RankRoute(RankingRoute):
    """``POST /v1/rank`` and ``POST /v1/models/NAME/rank``: JSON or Arrow in, JSON or Arrow out."""

    pattern = "/v1/rank"
    named_pattern = "/v1/models/{model}/rank"

    def form(self, model: RankingModel, headers: Headers) -> Form:
        """Choose by the content type; none means JSON."""
        value = headers.get(b"content-type")
        media = JSON if value is None or value == b"application/json" else media_type(value)
        if media == JSON:
            return model.json
        if media == ARROW:
            return model.arrow
        raise UnsupportedMedia(f"content-type is neither {JSON} nor {ARROW}")


class InferRoute(RankingRoute):
    """``POST /v2/models/NAME[/versions/VERSION]/infer`` of the Open Inference Protocol v2."""

    named_pattern = "/v2/models/{model}/infer"

    def form(self, model: RankingModel, headers: Headers) -> Form:
        """There is one; clients of the protocol send several content types, or none."""
        return model.infer

    def refusal_of(self, error: Exception, request_id: str) -> tuple[int, bytes]:
        """Status and body; the protocol knows 400 alone for what a value breaks."""
        status, content = super().refusal_of(error, request_id)
        return (400 if status == 422 else status), content

    def refusal(self, error: RequestError, request_id: str) -> bytes:
        """Body for a fault of the caller."""
        return infer_error(error.message)

    def failure(self, code: str, message: str, request_id: str) -> bytes:
        """Body for what the caller cannot mend."""
        return infer_error(f"{code}: {message}")
