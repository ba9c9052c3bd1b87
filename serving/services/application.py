"""The routes beside asking a model: what there is, how it fares, and the description of the protocol."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from serving.monitoring.metrics import exposition
from serving.protocol.answers import encode, failure
from serving.protocol.media import JSON
from serving.protocol.openapi import DOCS_PAGE, Described, describe
from serving.services.catalog import Catalog, ServedModel
from serving.services.exchange import REQUEST_ID_HEADER, request_id_of


def build_application(catalog: Catalog) -> Starlette:
    """Make the ASGI application that tells about the models of `catalog`."""

    async def models(request: Request) -> Response:
        return _json(request, {"models": [_listed(model) for model in catalog]})

    async def metrics(request: Request) -> Response:
        content, content_type = exposition()
        return Response(content, media_type=content_type)

    async def openapi(request: Request) -> Response:
        return _json(request, describe([Described(m.manifest.name, m.manifest.version, m.ranker.decoder.type) for m in catalog]))

    async def page(request: Request) -> Response:
        return HTMLResponse(DOCS_PAGE)

    return Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
            Route("/", page, methods=["GET"]),
        ],
        exception_handlers={404: _no_route, 405: _no_method},
    )


def _listed(model: ServedModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "family": manifest.family,
        "variant": manifest.provenance.variant,
        "loaded_at": model.loaded_at.isoformat(timespec="seconds"),
        "max_candidates": model.ranker.max_candidates,
        "features": manifest.features.model_dump(mode="json"),
        "quality": manifest.quality.model_dump(mode="json"),
    }


async def _no_route(request: Request, error: Exception) -> Response:
    return _failure(request, 404, "no_such_route", "there is no such route; GET / shows which there are")


async def _no_method(request: Request, error: Exception) -> Response:
    allowed = getattr(error, "headers", None) or {}
    return _failure(request, 405, "method_not_allowed", f"this route does not take {request.method}", allowed)


def _failure(request: Request, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    request_id = request_id_of(dict(request.headers.raw))
    content = encode(failure(code, message, request_id))
    return Response(content, status, {**(headers or {}), REQUEST_ID_HEADER.decode(): request_id}, JSON)


def _json(request: Request, content: object) -> Response:
    return Response(encode(content), headers={REQUEST_ID_HEADER.decode(): request_id_of(dict(request.headers.raw))}, media_type=JSON)
