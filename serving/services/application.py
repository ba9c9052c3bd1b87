"""The routes beside asking a model: what there is, how it fares, and the description of the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from serving.contract.errors import NotReady, UnknownModel
from serving.contract.manifest import Signature
from serving.monitoring.metrics import exposition
from serving.protocol.answers import Model, encode, failure
from serving.protocol.media import JSON
from serving.protocol.open_inference import infer_error, model_config, model_metadata, server_metadata
from serving.protocol.openapi import DOCS_PAGE, Described, describe
from serving.protocol.openapi_classify import DescribedClassifier
from serving.services.catalog import Catalog
from serving.services.exchange import REQUEST_ID_HEADER, request_id_of
from serving.services.label_set_routes import label_set_routes
from serving.services.served import ClipModel, RankingModel, ServedModel
from serving.services.ui import ui_routes


def build_application(catalog: Catalog) -> Starlette:
    """Make the ASGI application that tells about the models of `catalog`."""

    async def models(request: Request) -> Response:
        return _json(request, {"models": [_listed(model) for model in catalog]})

    async def metrics(request: Request) -> Response:
        catalog.flush_metrics()
        content, content_type = exposition()
        return Response(content, media_type=content_type)

    async def openapi(request: Request) -> Response:
        rankers = [Described(m.manifest.name, m.manifest.version, m.ranker.decoder.type) for m in catalog.of(RankingModel)]
        types = [(m.types.request, m.types.options, m.types.label_set) for m in catalog.of(ClipModel)]
        classifiers = [
            DescribedClassifier(m.manifest.name, m.manifest.version, *each) for m, each in zip(catalog.of(ClipModel), types, strict=True)
        ]
        return _json(request, describe(rankers, classifiers))

    async def page(request: Request) -> Response:
        return HTMLResponse(DOCS_PAGE)

    return Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
            Route("/", page, methods=["GET"]),
            *ui_routes(),
            *label_set_routes(catalog),
            *_open_inference(catalog),
        ],
        exception_handlers={404: _no_route, 405: _no_method},
    )


def _open_inference(catalog: Catalog) -> list[Route]:
    """The reading routes of the Open Inference Protocol v2."""

    async def server(request: Request) -> Response:
        return _bytes(request, server_metadata(_own_version()))

    async def live(request: Request) -> Response:
        return _json(request, {"live": True})

    async def ready(request: Request) -> Response:
        reason = catalog.not_ready
        return _json(request, {"ready": True}) if reason is None else _bytes(request, infer_error(f"not ready: {reason}"), 503)

    def of_model(content: Callable[[Model, Signature], bytes]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                manifest = catalog.find(RankingModel, request.path_params["name"], request.path_params.get("version")).manifest
            except (UnknownModel, NotReady) as error:
                return _bytes(request, infer_error(str(error)), error.status)
            return _bytes(request, content(Model(manifest.name, manifest.version), manifest.signature))

        return answer

    routes = [Route("/v2", server), Route("/v2/health/live", live), Route("/v2/health/ready", ready)]
    for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes.append(Route(base, of_model(model_metadata)))
        routes.append(Route(f"{base}/config", of_model(model_config)))
        routes.append(Route(f"{base}/ready", of_model(lambda model, _: encode({"name": model.name, "ready": True}))))
    return routes


def _own_version() -> str:
    try:
        return version("pilotage")
    except PackageNotFoundError:  # in a Bento, the code is there without its distribution
        return "unknown"


def _listed(model: ServedModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "family": manifest.family,
        "variant": manifest.provenance.variant,
        "loaded_at": model.loaded_at.isoformat(timespec="seconds"),
        **model.about(),
        "quality": manifest.quality.model_dump(mode="json"),
    }


async def _no_route(request: Request, error: Exception) -> Response:
    return _failure(request, 404, "no_such_route", "there is no such route; GET / shows which there are")


async def _no_method(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None) or {}
    allowed = ", ".join(sorted(headers.get("Allow", "other methods").split(", ")))
    return _failure(request, 405, "method_not_allowed", f"this route takes {allowed}, not {request.method}", headers)


def _failure(request: Request, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    request_id = request_id_of(dict(request.headers.raw))
    content = encode(failure(code, message, request_id))
    return Response(content, status, {**(headers or {}), REQUEST_ID_HEADER.decode(): request_id}, JSON)


def _json(request: Request, content: object) -> Response:
    return _bytes(request, encode(content))


def _bytes(request: Request, content: bytes, status: int = 200) -> Response:
    return Response(content, status, headers={REQUEST_ID_HEADER.decode(): request_id_of(dict(request.headers.raw))}, media_type=JSON)
