"""The OpenAPI 3.1 description of the service, made from the loaded model's request structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.protocol.answers import ErrorAnswer, RankAnswer
from serving.protocol.media import ARROW, JSON, OCTETS
from serving.protocol.open_inference import InferError
from serving.protocol.openapi_classify import DescribedClassifier, describe_classifiers
from serving.protocol.openapi_parts import REF, TIMEOUT, answered, refused, schemas_of

DOCS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pilotage</title>
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

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@dataclass(frozen=True)
class Described:
    """A loaded model: its name, version and the msgspec structure of its ranking requests."""

    name: str
    version: str
    request_type: type


def describe(models: Sequence[Described], classifiers: Sequence[DescribedClassifier] = ()) -> dict[str, Any]:
    """Describe the routes for the models that are loaded; ``/v1/rank`` asks the first of those that rank."""
    schemas = schemas_of(RankAnswer, ErrorAnswer, InferError)
    paths: dict[str, Any] = {}
    for number, model in enumerate(models):
        prefix = f"{model.name}." if number else ""  # two models may give different structures the same name
        (body,), components = msgspec.json.schema_components([model.request_type], ref_template=REF + prefix + "{name}")
        schemas |= {prefix + name: schema for name, schema in components.items()}
        if not number:
            paths["/v1/rank"] = _rank(f"Rank candidates with {model.name}, the first model", "rank", body)
        paths |= _open_inference(model.name)
        paths[f"/v1/models/{model.name}/rank"] = _rank(f"Rank candidates with {model.name}", f"rank-{model.name}", body)
    more_paths, more_schemas = describe_classifiers(classifiers)
    loaded = [*((model.name, model.version) for model in models), *((model.name, model.version) for model in classifiers)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Pilotage: {', '.join(name for name, _ in loaded) or 'no model loaded'}",
            "version": loaded[0][1] if loaded else "0",
        },
        "paths": {**paths, **more_paths, **_always()},
        "components": {"schemas": schemas | more_schemas},
    }


def _rank(summary: str, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = {
        "description": "Candidates, best first.",
        "content": {JSON: {"schema": {"$ref": REF + "RankAnswer"}}, ARROW: _BINARY},
    }
    return {
        "post": {
            "operationId": operation,
            "summary": summary,
            "parameters": [TIMEOUT],
            "requestBody": {"required": True, "content": {JSON: {"schema": body}, ARROW: _BINARY}},
            "responses": {"200": answer, **refused("ErrorAnswer")},
        }
    }


def _open_inference(model: str) -> dict[str, Any]:
    """The routes of the Open Inference Protocol v2; its own documents describe their bodies."""
    found = {"200": answered("Found.", {"type": "object"}), **refused("InferError", "404", "503"), **refused("ErrorAnswer", "401")}
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
    refusals = refused("InferError", "400", "404", "405", "406", "413", "415", "500", "503", "504")
    base = f"/v2/models/{model}"
    return {
        base: {"get": {"operationId": f"metadata-{model}", "summary": f"Tensors of {model}", "responses": found}},
        f"{base}/config": {"get": {"operationId": f"config-{model}", "summary": f"Configuration of {model}", "responses": found}},
        f"{base}/ready": {"get": {"operationId": f"ready-{model}", "summary": f"Is {model} ready?", "responses": found}},
        f"{base}/infer": {
            "post": {
                "operationId": f"infer-{model}",
                "summary": f"Run {model} on its own tensors (Open Inference Protocol v2)",
                "parameters": [TIMEOUT],
                "requestBody": {"required": True, "content": {JSON: {"schema": body}, OCTETS: _BINARY}},
                "responses": {"200": answer, **refusals, **refused("ErrorAnswer", "401")},
            }
        },
    }


def _always() -> dict[str, Any]:
    probe = {"200": {"description": "Yes."}, "503": {"description": "No; the body says why."}}
    text = {"200": {"description": "Prometheus text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    listed = {"200": answered("The models.", {"type": "object"}), **refused("ErrorAnswer", "401")}
    page = {"200": {"description": "A page to try the service with.", "content": {"text/html": {"schema": {"type": "string"}}}}}
    operations = {
        "/ui": ("ui", "A page to try the service with", page),
        "/v1/models": ("models", "Loaded models with their versions and specifications", listed),
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
