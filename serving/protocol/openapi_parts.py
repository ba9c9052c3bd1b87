"""What all parts of the OpenAPI description share."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.protocol.media import JSON

_ERRORS = {
    "400": "The body is not what its content type says, or a header cannot be read.",
    "401": "The service wants a bearer token.",
    "404": "No such model is served, or no such label set registered.",
    "405": "The route takes POST.",
    "406": "The Accept header takes no form in which this can be answered.",
    "413": "The body is over the byte limit.",
    "415": "A content type or content encoding that is not read here.",
    "422": "A value breaks a rule; `violations` has path, rule and value.",
    "500": "The service failed; the cause is in its log under the request id.",
    "503": "Not ready, or the answer would not come within the objective: try again after `Retry-After` seconds.",
    "504": "The answer would not come within the time that the caller gave.",
}

TIMEOUT = {
    "name": "x-request-timeout-ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds that the caller will wait; what cannot be answered by then is not run.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
}

REF = "#/components/schemas/"


def schemas_of(*types: type) -> dict[str, Any]:
    """Schemas of structures, by name."""
    _, components = msgspec.json.schema_components(types, ref_template=REF + "{name}")
    return components


def answered(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A response in JSON."""
    return {"description": description, "content": {JSON: {"schema": schema}}}


def refused(schema: str, *statuses: str) -> dict[str, Any]:
    """Responses that are errors, with bodies of `schema`: those of `statuses`, or all."""
    return {status: answered(_ERRORS[status], {"$ref": REF + schema}) for status in (statuses or _ERRORS)}
