"""The service keeps to its own OpenAPI description, whatever is thrown at it.

``PILOTAGE_FUZZ_CASES=10000`` makes the run long; the default is for every day.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from service_processes import BENTOML, service_of

from serving.contract.bundle import Bundle
from serving.protocol.media import ARROW, OCTETS
from tests.clip_bundles import tiny_clip_bundle

CASES = int(os.environ.get("PILOTAGE_FUZZ_CASES", "400"))
PATIENT_MS = "30000"
SHARE_OF_POST = 8
"""Times as many cases as for a route that only reads."""

schemathesis.serializer(ARROW)(lambda _, value: value if isinstance(value, bytes) else str(value).encode())


schemathesis.serializer("image/*")(lambda _, value: value if isinstance(value, bytes) else str(value).encode())


@pytest.fixture(scope="module")
def client(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of both families."""
    folder = tmp_path_factory.mktemp("service")
    bundles = f"{tiny_bundle.path},{tiny_clip_bundle(folder / 'clip').path}"
    limits = {"PILOTAGE_MAX_CANDIDATES": "50", "PILOTAGE_MAX_LABELS": "50", "PILOTAGE_CLASSIFY_OBJECTIVE_MS": PATIENT_MS}
    with service_of(BENTOML, folder, "/readyz", PILOTAGE_BUNDLE=bundles, **limits) as (client, _):
        yield client


def test_every_generated_request_is_answered_as_described(client: httpx.Client) -> None:
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").raise_for_status().json())
    operations = [found.ok() for found in schema.get_all_operations()]
    shares = {operation.label: SHARE_OF_POST if operation.method == "post" else 1 for operation in operations}
    base_url = str(client.base_url).rstrip("/")
    answered: Counter[tuple[str, int]] = Counter()

    with requests.Session() as session:
        session.trust_env = False

        def ask(case: Case) -> None:
            if str(case.headers.get("x-request-timeout-ms", "")).isdecimal():
                case.headers["x-request-timeout-ms"] = PATIENT_MS  # a caller without patience rightly gets 504
            response = case.call(base_url, session)
            answered[case.operation.label, response.status_code] += 1
            case.validate_response(
                response, excluded_checks=[positive_data_acceptance] if _is_beyond_the_description(case, response) else []
            )

        for operation in operations:
            modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if operation.method == "post" else [GenerationMode.POSITIVE]
            cases = max(5, CASES * shares[operation.label] // sum(shares.values()) // len(modes))
            bounds = settings(
                max_examples=cases, deadline=None, database=None, derandomize=True, phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            for mode in modes:
                bounds(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    print(f"{sum(answered.values())} cases: {dict(answered)}")
    assert {status for _, status in answered} >= {200, 400, 422}


def _is_beyond_the_description(case: Case, response: schemathesis.Response) -> bool:
    """Say whether more is wanted than the description can say.

    Of an Arrow stream and an image it says no more than that it is bytes, of tensors not that their shapes agree, of labels not that one must have
    something to read; and to JSON Schema, ``7.0`` is an integer.
    """
    if case.media_type in (ARROW, OCTETS) or case.operation.label.endswith(("/infer", "/classify")):
        return True
    if "label-sets" in case.operation.label and response.status_code == 422:
        return "something to read" in response.text or "$.templates" in response.text
    return response.status_code == 422 and "Expected `int" in response.text and "got `float`" in response.text
