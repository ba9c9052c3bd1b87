"""The routes beside ranking: models, metrics, the OpenAPI description and its page."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from serving.monitoring.metrics import exposition
from serving.protocol.answers import JSON, encode
from serving.protocol.openapi import DOCS_PAGE, describe
from serving.services.rank_route import REQUEST_ID_HEADER, Loaded, request_id_of


def build_application(loaded: Loaded) -> Starlette:
    """Make the ASGI application that tells about `loaded`."""

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
        return Response(encode({"models": listed}), headers={REQUEST_ID_HEADER: request_id_of(request.headers.raw)}, media_type=JSON)

    async def metrics(request: Request) -> Response:
        content, content_type = exposition()
        return Response(content, media_type=content_type)

    async def openapi(request: Request) -> Response:
        ranker = loaded.ranker
        if ranker is None:
            return Response(encode(describe(None, "no model loaded", "0")), media_type=JSON)
        return Response(encode(describe(ranker.decoder.type, ranker.manifest.name, ranker.manifest.version)), media_type=JSON)

    async def page(request: Request) -> Response:
        return HTMLResponse(DOCS_PAGE)

    endpoints = {"/v1/models": models, "/metrics": metrics, "/openapi.json": openapi, "/": page}
    return Starlette(routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()])
