"""The OpenAPI 3.1 description of the service, made from the loaded model's request structure."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.protocol.answers import JSON, answer_schemas

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
    "400": "The body is not valid JSON.",
    "413": "The body is over the byte limit.",
    "422": "A value breaks a rule of the feature specification; `violations` has path, rule and value.",
    "500": "The service failed; the cause is in its log under the request id.",
    "503": "The model is not loaded or not yet warm.",
}


def describe(request_type: type | None, model: str, version: str) -> dict[str, Any]:
    """Describe the routes.

    Parameters
    ----------
    request_type
        The msgspec structure of a ranking request; None while no model is loaded.
    model, version
        Name and version of the loaded model, for the title.
    """
    ref_template = "#/components/schemas/{name}"
    schemas = answer_schemas()
    body: dict[str, Any] = {}
    if request_type is not None:
        (body,), components = msgspec.json.schema_components([request_type], ref_template=ref_template)
        schemas |= components
    refused = {
        status: {"description": text, "content": {JSON: {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}}
        for status, text in _ERRORS.items()
    }
    answer = {"description": "Candidates, best first.", "content": {JSON: {"schema": {"$ref": "#/components/schemas/RankAnswer"}}}}
    plain = {"200": {"description": "Yes."}, "503": {"description": "No; the body says why."}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Pilotage ranking: {model}", "version": version},
        "paths": {
            "/v1/rank": {
                "post": {
                    "operationId": "rank",
                    "summary": "Rank candidates for one user in one context",
                    "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
                    "responses": {"200": answer, **refused},
                }
            },
            "/v1/models": {
                "get": {
                    "operationId": "models",
                    "summary": "Loaded models with their versions and feature specifications",
                    "responses": {"200": {"description": "The models.", "content": {JSON: {"schema": {"type": "object"}}}}},
                }
            },
            "/livez": {"get": {"operationId": "livez", "summary": "Is the process alive?", "responses": plain}},
            "/readyz": {"get": {"operationId": "readyz", "summary": "Is the model loaded and warm?", "responses": plain}},
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Prometheus metrics",
                    "responses": {
                        "200": {"description": "Prometheus text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
                    },
                }
            },
        },
        "components": {"schemas": schemas},
    }
