"""The OpenAPI 3.1 description of the service, made from the loaded model's request structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.protocol.answers import ErrorAnswer, RankAnswer
from serving.protocol.media import ARROW, JSON, OCTETS
from serving.protocol.open_inference import InferError

DOCS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pilotage ranking</title>
<link rel="stylesheet" href="static_content/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({ url: "openapi.json", dom_id: "#page", validatorUrl: null })</script>
</body>
</html>
"""
"""The description as a page, drawn by the Swagger UI that BentoML serves; unlike BentoML's own page it asks no other host."""

_ERRORS = {
    "400": "The body is not what its content type says, or a header cannot be read.",
    "401": "The service wants a bearer token.",
    "404": "No such model is served.",
    "405": "The route takes POST.",
    "406": "The Accept header takes no form in which this can be answered.",
    "413": "The body is over the byte limit.",
    "415": "A content type or content encoding that is not read here.",
    "422": "A value breaks a rule of the feature specification; `violations` has path, rule and value.",
    "500": "The service failed; the cause is in its log under the request id.",
    "503": "Not ready, or the answer would not come within the objective: try again after `Retry-After` seconds.",
    "504": "The answer would not come within the time that the caller gave.",
}

_TIMEOUT = {
    "name": "x-request-timeout-ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds that the caller will wait; what cannot be answered by then is not run.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
}

_REF = "#/components/schemas/"
_BINARY = {"schema": {"type": "string", "format": "binary"}}


@dataclass(frozen=True)
class Described:
    """A loaded model: its name, version and the msgspec structure of its ranking requests."""

    name: str
    version: str
    request_type: type


def describe(models: Sequence[Described]) -> dict[str, Any]:
    """Describe the routes for the models that are loaded; ``/v1/rank`` asks the first of them."""
    schemas = _schemas_of(RankAnswer, ErrorAnswer, InferError)
    paths: dict[str, Any] = {}
    for number, model in enumerate(models):
        prefix = f"{model.name}." if number else ""  # two models may give different structures the same name
        (body,), components = msgspec.json.schema_components([model.request_type], ref_template=_REF + prefix + "{name}")
        schemas |= {prefix + name: schema for name, schema in components.items()}
        if not number:
            paths["/v1/rank"] = _rank(f"Rank candidates with {model.name}, the first model", "rank", body)
        paths |= _open_inference(model.name)
        paths[f"/v1/models/{model.name}/rank"] = _rank(f"Rank candidates with {model.name}", f"rank-{model.name}", body)
    first = models[0] if models else None
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Pilotage ranking: {', '.join(model.name for model in models) or 'no model loaded'}",
            "version": first.version if first else "0",
        },
        "paths": {**paths, **_always()},
        "components": {"schemas": schemas},
    }


def _rank(summary: str, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = {
        "description": "Candidates, best first.",
        "content": {JSON: {"schema": {"$ref": _REF + "RankAnswer"}}, ARROW: _BINARY},
    }
    return {
        "post": {
            "operationId": operation,
            "summary": summary,
            "parameters": [_TIMEOUT],
            "requestBody": {"required": True, "content": {JSON: {"schema": body}, ARROW: _BINARY}},
            "responses": {"200": answer, **_refused("ErrorAnswer")},
        }
    }


def _open_inference(model: str) -> dict[str, Any]:
    """The routes of the Open Inference Protocol v2; its own documents describe their bodies."""
    found = {"200": _answered("Found.", {"type": "object"}), **_refused("InferError", "404", "503"), **_refused("ErrorAnswer", "401")}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
            "datatype": {"type": "string", "enum": ["BYTES", "INT64", "FP32"]},
            "data": {"type": "array", "items": {}},
        },
    }
    body = {"type": "object", "required": ["inputs"], "properties": {"inputs": {"type": "array", "items": tensor, "minItems": 1}}}
    answer = {
        "description": "The probabilities, in the order of the candidates.",
        "content": {JSON: {"schema": {"type": "object"}}, OCTETS: _BINARY},
    }
    refused = _refused("InferError", "400", "404", "405", "406", "413", "415", "500", "503", "504")
    base = f"/v2/models/{model}"
    return {
        base: {"get": {"operationId": f"metadata-{model}", "summary": f"Tensors of {model}", "responses": found}},
        f"{base}/config": {"get": {"operationId": f"config-{model}", "summary": f"Configuration of {model}", "responses": found}},
        f"{base}/ready": {"get": {"operationId": f"ready-{model}", "summary": f"Is {model} ready?", "responses": found}},
        f"{base}/infer": {
            "post": {
                "operationId": f"infer-{model}",
                "summary": f"Run {model} on its own tensors (Open Inference Protocol v2)",
                "parameters": [_TIMEOUT],
                "requestBody": {"required": True, "content": {JSON: {"schema": body}, OCTETS: _BINARY}},
                "responses": {"200": answer, **refused, **_refused("ErrorAnswer", "401")},
            }
        },
    }


def _always() -> dict[str, Any]:
    probe = {"200": {"description": "Yes."}, "503": {"description": "No; the body says why."}}
    text = {"200": {"description": "Prometheus text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    listed = {"200": _answered("The models.", {"type": "object"}), **_refused("ErrorAnswer", "401")}
    operations = {
        "/v1/models": ("models", "Loaded models with their versions and feature specifications", listed),
        "/v2": ("server", "Name, version and extensions of the server (Open Inference Protocol v2)", listed),
        "/v2/health/live": ("v2-live", "Is the process alive?", probe),
        "/v2/health/ready": ("v2-ready", "Are all models loaded and warm?", probe),
        "/livez": ("livez", "Is the process alive?", probe),
        "/readyz": ("readyz", "Are all models loaded and warm?", probe),
        "/metrics": ("metrics", "Prometheus metrics", text),
    }
    return {
        path: {"get": {"operationId": name, "summary": summary, "responses": responses}}
        for path, (name, summary, responses) in operations.items()
    }


def _schemas_of(*types: type) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(types, ref_template=_REF + "{name}")
    return components


def _answered(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _refused(schema: str, *statuses: str) -> dict[str, Any]:
    return {status: _answered(_ERRORS[status], {"$ref": _REF + schema}) for status in (statuses or _ERRORS)}
