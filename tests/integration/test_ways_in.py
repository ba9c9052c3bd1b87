"""The same question in every form that the service reads gets the same answer."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from typing import Any

import bentoml
import httpx
import numpy as np
import pyarrow as pa
import pytest
import tritonclient.http as triton
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


TENSORS = {
    "user_id": np.array(["ann"], object),
    "segment": np.array([3]),
    "history": np.array([["a", "b"]], object),
    "age": np.array([41], np.float32),
    "device": np.array(["phone"], object),
    "id": np.array([row["id"] for row in CANDIDATES], object),
    "price": np.array([row["price"] for row in CANDIDATES], np.float32),
    "tags": np.array([row["tags"] for row in CANDIDATES]),
}


@pytest.fixture
def tritons(client: httpx.Client) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as made:
        yield made


def _inputs(binary: bool, **changed: Any) -> list[triton.InferInput]:
    inputs = []
    for name, values in (TENSORS | changed).items():
        datatype = {"O": "BYTES", "i": "INT64", "f": "FP32"}[values.dtype.kind]
        inputs.append(triton.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary))
    return inputs


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_tritons_client_gets_the_same_probabilities(
    client: httpx.Client, tritons: triton.InferenceServerClient, binary: bool, compression: str | None
) -> None:
    ranking = client.post("/v1/rank", json={**BODY, "top_k": None}).raise_for_status().json()["ranking"]
    expected = {row["id"]: row["probability"] for row in ranking}
    outputs = [triton.InferRequestedOutput("probability", binary_data=binary)]
    for version in ("", "1"):
        result = tritons.infer(
            "tiny", _inputs(binary), model_version=version, outputs=outputs, request_id="r-3", request_compression_algorithm=compression
        )
        assert (result.get_response()["id"], result.get_response()["model_version"]) == ("r-3", "1")
        assert result.as_numpy("probability").tolist() == pytest.approx([expected[row["id"]] for row in CANDIDATES], abs=1e-6)


def test_several_requests_go_into_one_call(tritons: triton.InferenceServerClient) -> None:
    alone = tritons.infer("tiny", _inputs(True)).as_numpy("probability")
    several = {
        "user_id": np.array(["bob", "ann"], object),
        "segment": np.array([5, 3]),
        "history": np.array([["c", "\uffff"], ["a", "b"]], object),
        "age": np.array([9, 41], np.float32),
        "device": np.array(["tv", "phone"], object),
        "request_index": np.array([1] * 10 + [0] * 10),
    }
    both = tritons.infer("tiny", _inputs(True, **several)).as_numpy("probability")
    assert both[:10] == pytest.approx(alone[:10], abs=1e-6)
    assert not np.allclose(both[10:], alone[10:])


def test_tritons_client_finds_health_and_metadata(tritons: triton.InferenceServerClient) -> None:
    assert tritons.is_server_live()
    assert tritons.is_server_ready()
    assert tritons.is_model_ready("tiny")
    assert tritons.is_model_ready("tiny", "1")
    assert not tritons.is_model_ready("tiny", "2")
    assert not tritons.is_model_ready("absent")
    assert tritons.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration"]
    metadata = tritons.get_model_metadata("tiny", "1")
    assert {tensor["name"] for tensor in metadata["inputs"]} == {*TENSORS, "request_index"}
    assert tritons.get_model_config("tiny")["max_batch_size"] == 0


@pytest.mark.parametrize(
    ("model", "version", "changed", "reason"),
    [
        ("absent", "", {}, "[404] no model 'absent' is served here"),
        ("tiny", "7", {}, "[404] model 'tiny' has version '1' here"),
        ("tiny", "", {"price": np.array([np.inf] * 20, np.float32)}, "[400] $.inputs.price[0]: numbers must be finite"),
        ("tiny", "", {"shop": np.array(["x"], object)}, "[400] $.inputs.shop: no such input"),
    ],
)
def test_tritons_client_is_told_what_is_wrong(
    tritons: triton.InferenceServerClient, model: str, version: str, changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        tritons.infer(model, _inputs(True, **changed), model_version=version)
    assert str(caught.value).startswith(reason)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning"
)  # BentoML's client imports old names, and leaves a folder
def test_bentomls_own_client_works_as_it_is(client: httpx.Client) -> None:
    expected = client.post("/v1/rank", json=BODY).raise_for_status().json()
    with bentoml.SyncHTTPClient(str(client.base_url)) as bento:
        found = bento.rank(**BODY)
        assert found["model"] == expected["model"]
        assert found["ranking"] == expected["ranking"]
        with pytest.raises(bentoml.exceptions.BentoMLException, match="no-such-field"):
            bento.rank(candidates=[{"id": "a", "no-such-field": 1}], context=BODY["context"])
    del bento
    gc.collect()  # while what it leaves is not taken for an error of the next test
