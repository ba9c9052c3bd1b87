"""``POST /v1/rank`` as a bare ASGI application: the hot path, with no framework between the socket and the ranker."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from serving.contract.errors import NotReady, RequestError, RequestTooLarge, ServingError
from serving.monitoring.metrics import BoundMetrics
from serving.protocol.answers import JSON, ErrorAnswer, Model, encode, failure, rank_answer, refusal
from serving.ranking.ranker import Ranker

log = logging.getLogger("bentoml.pilotage")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")


class Loaded:
    """What a worker serves: a warm ranker, or the reason why there is none yet."""

    def __init__(self) -> None:
        self.ranker: Ranker | None = None
        self.metrics: BoundMetrics | None = None
        self.reason = "the model is still loading"
        self.max_body_bytes = 0

    def require(self) -> tuple[Ranker, BoundMetrics]:
        """Return the ranker and its metrics.

        Raises
        ------
        NotReady
            There is none yet.
        """
        if self.ranker is None or self.metrics is None:
            raise NotReady(self.reason)
        return self.ranker, self.metrics


class ClientGone(Exception):
    """The caller closed the connection before the body was complete: there is nobody to answer."""


class RankRoute:
    """The ASGI application of the route.

    Parameters
    ----------
    loaded
        Filled in when the worker has started.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        headers = scope["headers"]
        request_id = request_id_of(headers)
        try:
            if scope["method"] != "POST":
                answer = failure("method_not_allowed", f"this route takes POST, not {scope['method']}", request_id)
                await respond(send, 405, encode(answer), request_id, [(b"allow", b"POST")])
                return
            ranker, metrics = self._loaded.require()
            body = await read_body(headers, receive, self._loaded.max_body_bytes)
            started = time.perf_counter()
            request = ranker.decoder.decode(body)
            decoded = time.perf_counter()
            ranking = ranker.rank(request)
            ranked = time.perf_counter()
            content = rank_answer(Model(ranker.manifest.name, ranker.manifest.version), request_id, ranking.ids, ranking.probabilities)
            metrics.answered((started, decoded, ranked, time.perf_counter()), len(request.candidates))
        except ClientGone:
            return
        except Exception as error:
            status, answer = _refuse(error, request_id)
            if self._loaded.metrics is not None:
                self._loaded.metrics.refused(status, time.perf_counter() - started)
            await respond(send, status, encode(answer), request_id)
            return
        await respond(send, 200, content, request_id)


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, max_bytes: int) -> bytes:
    """Read the whole body, or refuse it as soon as it is known to be too long.

    Raises
    ------
    RequestTooLarge
        The body is over `max_bytes`.
    ClientGone
        The connection was closed before the end.
    """
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > max_bytes:
            raise RequestTooLarge(f"the body has {int(value)} bytes, the limit is {max_bytes}; send fewer candidates a request")
    chunks: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size_bytes += len(chunk)
        if size_bytes > max_bytes:
            raise RequestTooLarge(f"the body is over the limit of {max_bytes} bytes; send fewer candidates a request")
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else chunk
        chunks.append(chunk)


async def respond(send: Send, status: int, content: bytes, request_id: str, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send a JSON answer."""
    headers = [
        (b"content-type", JSON.encode()),
        (b"content-length", str(len(content)).encode()),
        (REQUEST_ID_HEADER.encode(), request_id.encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Take the caller's request id if it is a plain token, else make one."""
    for name, value in headers:
        if name == REQUEST_ID_HEADER.encode() and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return secrets.token_hex(8)


def _refuse(error: Exception, request_id: str) -> tuple[int, ErrorAnswer]:
    """Status and body for an error: the caller's faults in full, ours by code alone."""
    if isinstance(error, RequestError):
        return error.status, refusal(error, request_id)
    if isinstance(error, NotReady):
        return error.status, failure(error.code, f"not ready: {error}", request_id)
    code = error.code if isinstance(error, ServingError) else ServingError.code
    log.error("request %s failed", request_id, exc_info=error)
    return 500, failure(code, f"the service failed; its log has the cause under request id {request_id}", request_id)
