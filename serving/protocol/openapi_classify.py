"""The part of the OpenAPI description that classification and label sets have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.protocol.classify import ClassifyAnswer, LabelSetAnswer, LabelSetList, LabelSetSummary
from serving.protocol.media import JSON
from serving.protocol.openapi_parts import REF, TIMEOUT, answered, refused, schemas_of

_SET = "/v1/label-sets/{name}"
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"},
}
_FILE = {"type": "string", "format": "binary"}


@dataclass(frozen=True)
class DescribedClassifier:
    """A loaded model that classifies: its name, version and the msgspec structures of its requests.

    Attributes
    ----------
    request_type, options_type, label_set_type
        A JSON body, the same without images, and the body of a label set.
    """

    name: str
    version: str
    request_type: type
    options_type: type
    label_set_type: type


def describe_classifiers(models: Sequence[DescribedClassifier]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe the routes for models that classify; ``/v1/classify`` asks the first of them.

    Returns
    -------
    tuple
        Paths, and schemas of components. All models of a service take the same requests.
    """
    if not models:
        return {}, {}
    first = models[0]
    types = (first.request_type, first.options_type, first.label_set_type)
    (request, options, label_set), schemas = msgspec.json.schema_components(types, ref_template=REF + "{name}")
    schemas |= schemas_of(ClassifyAnswer, LabelSetAnswer, LabelSetList, LabelSetSummary)
    paths = {"/v1/classify": _classify(f"Classify images with {first.name}, the first model that does", "classify", request, options)}
    for model in models:
        paths[f"/v1/models/{model.name}/classify"] = _classify(
            f"Classify images with {model.name}", f"classify-{model.name}", request, options
        )
    return {**paths, **_label_sets(label_set)}, schemas


def _classify(summary: str, operation: str, request: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    parts = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {"type": "array", "items": _FILE, "minItems": 1}, "request": options},
        "additionalProperties": False,
    }
    encoding = {"request": {"contentType": JSON}, "image": {"contentType": "image/*"}}
    answer = {"description": "Labels of each image, best first.", "content": {JSON: {"schema": {"$ref": f"{REF}ClassifyAnswer"}}}}
    return {
        "post": {
            "operationId": operation,
            "summary": summary,
            "description": (
                "With `image/*` the body is one image file, and the options stand in the query, `label` once for each label. "
                "In `multipart/form-data` they may also stand in parts of their own, without `request`."
            ),
            "parameters": [TIMEOUT],
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {"schema": request},
                    "multipart/form-data": {"schema": parts, "encoding": encoding},
                    "image/*": {"schema": _FILE},
                },
            },
            "responses": {"200": answer, **refused("ErrorAnswer")},
        }
    }


def _label_sets(body: dict[str, Any]) -> dict[str, Any]:
    def operation(name: str, summary: str, answers: dict[str, Any], *refusals: str) -> dict[str, Any]:
        return {"operationId": name, "summary": summary, "responses": {**answers, **refused("ErrorAnswer", "401", "404", "503", *refusals)}}

    summary = {"$ref": f"{REF}LabelSetSummary"}
    put = operation(
        "register-label-set",
        "Register a label set, in place of one of the same name",
        {"200": answered("Replaced.", summary), "201": answered("Registered.", summary)},
        *("400", "413", "422", "500"),
    )
    put["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    found = {"200": answered("The set, with its labels.", {"$ref": f"{REF}LabelSetAnswer"})}
    listed = {"200": answered("The sets, without their labels.", {"$ref": f"{REF}LabelSetList"})}
    return {
        "/v1/label-sets": {"get": operation("label-sets", "Label sets, and how far each model is with them", listed)},
        _SET: {
            "parameters": [_NAME],
            "put": put,
            "get": operation("label-set", "One label set, and how far each model is with it", found),
            "delete": operation("forget-label-set", "Forget a label set", {"204": {"description": "Forgotten."}}),
        },
    }
