"""Routes of named label sets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.clip.label_sets import LabelSet
from serving.contract.errors import RequestError, ServingError
from serving.protocol.answers import encode, failure, refusal
from serving.protocol.classify import LabelSetAnswer, LabelSetList, LabelSetSummary, Readiness
from serving.protocol.media import JSON
from serving.services.catalog import Catalog
from serving.services.exchange import REQUEST_ID_HEADER, BodyBounds, request_id_of
from serving.services.model_route import RETRY_AFTER
from serving.services.served import ClipModel

log = logging.getLogger("pilotage")

Reply = tuple[int, object]


def label_set_routes(catalog: Catalog) -> list[Route]:
    """List, register, show and forget label sets. Disks are waited for on other threads than the event loop's."""

    async def listed(request: Request) -> Reply:
        catalog.find(ClipModel)
        return await asyncio.to_thread(_listed, catalog)

    async def shown(request: Request) -> Reply:
        catalog.find(ClipModel)
        name = request.path_params["name"]
        return await asyncio.to_thread(lambda: (200, _answer(catalog, catalog.state.label_sets.get(name))))

    async def put(request: Request) -> Reply:
        model = catalog.find(ClipModel)
        content = await _body(request, BodyBounds(catalog.max_upload_bytes, advice="register fewer labels in one set"))

        def register() -> Reply:
            body = model.types.decode_label_set(content)
            templates = None if body.templates is None else model.classifier.labels.templates(body.templates)
            made, is_new = catalog.state.label_sets.put(request.path_params["name"], tuple(body.labels), templates)
            for each in catalog.of(ClipModel):
                each.classifier.prepare(made)
            return 201 if is_new else 200, _summary(catalog, made)

        return await asyncio.to_thread(register)

    async def delete(request: Request) -> Reply:
        catalog.find(ClipModel)
        await asyncio.to_thread(catalog.state.label_sets.delete, request.path_params["name"])
        return 204, None

    one = {"GET": shown, "HEAD": shown, "PUT": put, "DELETE": delete}
    return [
        Route("/v1/label-sets", _answering(listed), methods=["GET"]),
        Route("/v1/label-sets/{name}", _answering(lambda request: one[request.method](request)), methods=["GET", "PUT", "DELETE"]),
    ]


def _answering(reply: Callable[[Request], Awaitable[Reply]]) -> Callable[[Request], Awaitable[Response]]:
    """Write what a handler returns, or what it refuses."""

    async def answer(request: Request) -> Response:
        request_id = request_id_of(dict(request.headers.raw))
        headers = {REQUEST_ID_HEADER.decode(): request_id}
        try:
            status, content = await reply(request)
        except RequestError as error:
            status, content = error.status, refusal(error, request_id)
        except ServingError as error:
            status, content = error.status, failure(error.code, str(error), request_id)
            headers[RETRY_AFTER[0].decode()] = RETRY_AFTER[1].decode()
        except OSError as error:
            log.error("label sets cannot be kept on disk", exc_info=error, extra={"request_id": request_id})
            told = f"the service could not write or read its label sets; its log has the cause under request id {request_id}"
            status, content = ServingError.status, failure(ServingError.code, told, request_id)
        if content is None:
            return Response(status_code=status, headers=headers)
        return Response(encode(content), status, headers, JSON)

    return answer


async def _body(request: Request, bounds: BodyBounds) -> bytes:
    chunks, size_bytes = [], 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        bounds.require(size_bytes)
        chunks.append(chunk)
    return bounds.plain(dict(request.headers.raw), b"".join(chunks))


def _listed(catalog: Catalog) -> Reply:
    sets = catalog.state.label_sets
    found = []
    for name in sets.names():
        try:
            found.append(_summary(catalog, sets.get(name)))
        except RequestError:
            continue  # deleted meanwhile, or damaged, which is logged
    return 200, LabelSetList(found)


def _fields(catalog: Catalog, label_set: LabelSet) -> dict[str, Any]:
    models = []
    for model in catalog.of(ClipModel):
        embedded = model.classifier.labels.embedded(label_set)
        models.append(Readiness(model.manifest.name, model.manifest.version, embedded, embedded == len(label_set.labels)))
    return {
        "name": label_set.name,
        "count": len(label_set.labels),
        "templates": None if label_set.templates is None else label_set.templates.shown,
        "registered_at": label_set.registered_at.isoformat(timespec="seconds"),
        "models": models,
    }


def _summary(catalog: Catalog, label_set: LabelSet) -> LabelSetSummary:
    return LabelSetSummary(**_fields(catalog, label_set))


def _answer(catalog: Catalog, label_set: LabelSet) -> LabelSetAnswer:
    return LabelSetAnswer(**_fields(catalog, label_set), labels=list(label_set.labels))
