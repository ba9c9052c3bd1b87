"""The HTTP application: routes, body limits, error answers. Ties decoder, ranker and answers together."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from serving.contract.errors import NotReady, RequestError, RequestTooLarge, ServingError
from serving.monitoring.metrics import BoundMetrics, exposition
from serving.protocol.answers import JSON, ErrorAnswer, Model, RankAnswer, Ranked, encode, failure, refusal
from serving.protocol.openapi import DOCS_PAGE, describe
from serving.ranking.ranker import Ranker

log = logging.getLogger("pilotage.service")

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class Loaded:
    """What a worker serves: a warm ranker, or the reason why there is none yet."""

    def __init__(self) -> None:
        self.ranker: Ranker | None = None
        self.metrics: BoundMetrics | None = None
        self.reason = "the model is still loading"
        self.max_body_bytes = 0

    def require(self) -> tuple[Ranker, BoundMetrics]:
        """Return the ranker.

        Raises
        ------
        NotReady
            There is none yet.
        """
        if self.ranker is None or self.metrics is None:
            raise NotReady(self.reason)
        return self.ranker, self.metrics


def build_application(loaded: Loaded) -> Starlette:
    """Make the ASGI application that answers for `loaded`."""

    async def rank(request: Request) -> Response:
        request_id = _request_id(request)
        started = time.perf_counter()
        try:
            ranker, metrics = loaded.require()
            body = await _read_body(request, loaded.max_body_bytes)
            started = time.perf_counter()
            decoded = ranker.decoder.decode(body)
            decoded_at = time.perf_counter()
            ranking = ranker.rank(decoded)
            ranked_at = time.perf_counter()
            ranked = [Ranked(id, p) for id, p in zip(ranking.ids, ranking.probabilities.tolist(), strict=True)]
            content = encode(RankAnswer(Model(ranker.manifest.name, ranker.manifest.version), request_id, ranked))
            metrics.answered((started, decoded_at, ranked_at, time.perf_counter()), len(decoded.candidates))
            return _answer(200, content, request_id)
        except Exception as error:
            return _refuse(error, request_id, loaded, time.perf_counter() - started)

    async def models(request: Request) -> Response:
        listed = []
        if loaded.ranker is not None:
            manifest = loaded.ranker.manifest
            listed.append(
                {
                    "name": manifest.name,
                    "version": manifest.version,
                    "family": manifest.family,
                    "variant": manifest.provenance.variant,
                    "max_candidates": loaded.ranker.max_candidates,
                    "features": manifest.features.model_dump(mode="json"),
                    "quality": manifest.quality.model_dump(mode="json"),
                }
            )
        return _answer(200, encode({"models": listed}), _request_id(request))

    async def metrics_page(request: Request) -> Response:
        content, content_type = exposition()
        return Response(content, media_type=content_type)

    async def openapi(request: Request) -> Response:
        ranker = loaded.ranker
        description = (
            describe(ranker.decoder.type, ranker.manifest.name, ranker.manifest.version)
            if ranker
            else describe(None, "no model loaded", "0")
        )
        return Response(encode(description), media_type=JSON)

    async def page(request: Request) -> Response:
        return HTMLResponse(DOCS_PAGE)

    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("POST", "/v1/rank", rank),
        ("GET", "/v1/models", models),
        ("GET", "/metrics", metrics_page),
        ("GET", "/openapi.json", openapi),
        ("GET", "/", page),
    ]

    async def refuse_method(request: Request, error: Exception) -> Response:
        request_id = _request_id(request)
        answer = failure("method_not_allowed", f"{request.url.path} does not take {request.method}", request_id)
        response = _answer(405, encode(answer), request_id)
        response.headers["allow"] = ", ".join(method for method, path, _ in routes if path == request.url.path)
        return response

    return Starlette(
        exception_handlers={405: refuse_method}, routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in routes]
    )


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Read the whole body, or refuse it as soon as it is known to be too long."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise RequestTooLarge(f"the body has {declared} bytes, the limit is {max_bytes}; send fewer candidates a request")
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > max_bytes:
            raise RequestTooLarge(f"the body is over the limit of {max_bytes} bytes; send fewer candidates a request")
    return bytes(chunks)


def _request_id(request: Request) -> str:
    """Take the caller's id if it is a plain token, else make one."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _answer(status: int, content: bytes, request_id: str) -> Response:
    return Response(content, status, {REQUEST_ID_HEADER: request_id}, JSON)


def _refuse(error: Exception, request_id: str, loaded: Loaded, seconds: float) -> Response:
    """Turn an error into an answer: the caller's faults in full, ours by code alone."""
    answer: ErrorAnswer
    if isinstance(error, RequestError):
        status, answer = error.status, refusal(error, request_id)
    elif isinstance(error, ClientDisconnect):
        status, answer = 400, failure("client_disconnected", "the caller went away before the body was complete", request_id)
    elif isinstance(error, NotReady):
        status, answer = error.status, failure(error.code, f"not ready: {error}", request_id)
    else:
        code = error.code if isinstance(error, ServingError) else ServingError.code
        log.error("request %s failed", request_id, exc_info=error)
        status, answer = 500, failure(code, f"the service failed; its log has the cause under request id {request_id}", request_id)
    if loaded.metrics is not None:
        loaded.metrics.refused(status, seconds)
    return _answer(status, encode(answer), request_id)
