"""The same question in every form that the service reads gets the same answer."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa
import pytest
from service_processes import BENTOML, service_of

from serving.contract.bundle import Bundle

ARROW = "application/vnd.apache.arrow.stream"
CANDIDATES = [{"id": f"item-{i}", "price": 1.5 * i, "tags": [i, i + 1]} for i in range(20)]
BODY: dict[str, Any] = {
    "user": {"user_id": "ann", "segment": 3, "history": ["a", "b"], "age": 41.0},
    "context": {"device": "phone"},
    "candidates": CANDIDATES,
    "top_k": 7,
}


@pytest.fixture(scope="module")
def client(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("service")
    with service_of(BENTOML, folder, "/readyz", PILOTAGE_BUNDLE=str(tiny_bundle.path), PILOTAGE_MAX_CANDIDATES="50") as (client, _):
        yield client


def _stream(document: dict[str, Any]) -> bytes:
    batch = pa.RecordBatch.from_pylist([document])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _ranking(answer: httpx.Response) -> list[dict[str, Any]]:
    if answer.headers["content-type"] == ARROW:
        with pa.ipc.open_stream(answer.content) as reader:
            return reader.read_all().to_pylist()
    found: list[dict[str, Any]] = answer.json()["ranking"]
    return found


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/models/tiny/rank"])
def test_arrow_and_json_get_the_same_ranking_in_either_form(client: httpx.Client, path: str) -> None:
    expected = client.post(path, json=BODY).raise_for_status().json()["ranking"]
    assert len(expected) == 7
    for accept, media in (("*/*", ARROW), ("application/json", "application/json"), (f"{ARROW}, application/json;q=0.5", ARROW)):
        answer = client.post(path, content=_stream(BODY), headers={"content-type": ARROW, "accept": accept}).raise_for_status()
        assert answer.headers["content-type"] == media
        found = _ranking(answer)
        assert [row["id"] for row in found] == [row["id"] for row in expected]
        assert [row["probability"] for row in found] == pytest.approx([row["probability"] for row in expected], abs=1e-6)
    answer = client.post(path, json=BODY, headers={"accept": ARROW, "x-request-id": "r-9"}).raise_for_status()
    with pa.ipc.open_stream(answer.content) as reader:
        assert reader.schema.metadata == {b"model": b"tiny", b"version": b"1"}


def test_arrow_is_refused_with_the_same_words_as_json(client: httpx.Client) -> None:
    broken = {**BODY, "user": {"segment": "x"}}
    by_json = client.post("/v1/rank", json=broken)
    by_arrow = client.post("/v1/rank", content=_stream(broken), headers={"content-type": ARROW})
    assert by_json.status_code == by_arrow.status_code == 422
    assert by_arrow.headers["content-type"] == "application/json"
    assert by_json.json()["error"]["violations"] == by_arrow.json()["error"]["violations"]
    damaged = client.post("/v1/rank", content=_stream(BODY)[:200], headers={"content-type": ARROW})
    assert (damaged.status_code, damaged.json()["error"]["code"]) == (400, "malformed_request")


def test_other_forms_are_refused(client: httpx.Client) -> None:
    csv = client.post("/v1/rank", content=b"id\n1", headers={"content-type": "text/csv"})
    assert (csv.status_code, csv.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert ARROW in csv.json()["error"]["message"]
    page = client.post("/v1/rank", json=BODY, headers={"accept": "text/html"})
    assert (page.status_code, page.json()["error"]["code"]) == (406, "not_acceptable")
