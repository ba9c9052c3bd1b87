"""``POST /v1/classify`` and ``POST /v1/models/NAME/classify``: images and labels in, probabilities out.

One request goes: read → admit → decode → preprocess → queue → run → score. After admission all of it happens on other threads, since it
takes tens of milliseconds; the event loop reads on meanwhile, and sends the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from serving.clip.answers import Classified
from serving.contract.errors import DeadlineExceeded, MethodNotAllowed, Overloaded, RequestError, ServingError
from serving.monitoring.metrics import CLIP_STAGES
from serving.protocol.answers import Model
from serving.protocol.classify import classify_answer, image_answer
from serving.protocol.media import JSON, negotiate
from serving.services.classify_bodies import decoder_of
from serving.services.exchange import Call, Headers, deadline_of
from serving.services.model_route import ModelRoute, Target
from serving.services.served import ClipModel


class ClassifyRoute(ModelRoute[ClipModel]):
    """The routes to a model that classifies."""

    pattern = "/v1/classify"
    named_pattern = "/v1/models/{model}/classify"
    kind = ClipModel
    stages = CLIP_STAGES
    sizes = ("images", "labels")

    def early_refusal(self, headers: Headers, target: Target) -> Overloaded | DeadlineExceeded | None:
        """Guess the images from the length of the body."""
        length = headers.get(b"content-length")
        if length is None or not length.isdigit():
            return None
        try:
            model = self._catalog.find(ClipModel, *target)
            deadline_s = deadline_of(headers, time.perf_counter())
        except (ServingError, RequestError):
            return None  # `answer` says it, when the body is there
        return model.admission.refusal(int(length), deadline_s)

    def answer(self, call: Call, body: bytes, target: Target) -> None:
        """Hand the request on to the model's threads; the answer comes back to the event loop's."""
        asked = self._begin(call, target)
        try:
            if call.method != "POST":
                raise MethodNotAllowed(f"this route takes POST, not {call.method}")
            model = asked.model = self._catalog.find(ClipModel, *target)
            decode = decoder_of(call.headers, call.query, model.types)
            negotiate(call.headers.get(b"accept"), (JSON,))
            deadline_s = deadline_of(call.headers, call.began_s)
            size_bytes = len(body)
            ticket = model.admission.admit(size_bytes, deadline_s)
        except Exception as error:
            self._refuse(asked, error)
            return
        loop = asyncio.get_running_loop()
        headers, bounds = call.headers, self.bounds
        about = Model(model.manifest.name, model.manifest.version)

        def finish(result: Classified | Exception, content: bytes) -> None:
            model.release(ticket)
            if isinstance(result, Exception):
                self._refuse(asked, result)
                return
            marks_s, images, labels = result.marks_s, len(result.images), len(result.labels)
            model.admission.learn(size_bytes, images, marks_s[2] - marks_s[0])
            model.metrics.answered(marks_s, images, labels)
            self._reply(asked, 200, content, [(b"content-type", JSON.encode())], marks_s, images, labels)

        def deliver(result: Classified | Exception) -> None:
            content = b""
            if isinstance(result, Classified):
                try:
                    content = _written(about, asked.request_id, result)
                except Exception as error:
                    result = error
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(finish, result, content)

        model.classifier.ask(lambda: decode(bounds.plain(headers, body)), deliver, deadline_s=deadline_s, gone=call.gone)


def _written(model: Model, request_id: str, result: Classified) -> bytes:
    images = [
        image_answer(
            result.labels,
            image.order,
            image.probabilities,
            image.similarities,
            best=image.best,
            none_of_these=image.none_of_these,
            embedding=image.embedding,
        )
        for image in result.images
    ]
    return classify_answer(model, request_id, images)
