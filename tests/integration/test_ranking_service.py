"""The real commands, as real processes on loopback: what a caller, a probe and a scraper see."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mmh3
import psutil
import pytest
from service_processes import BENTOML, PILOTAGE, STOP_LIMIT_S, environment_of, free_port, service_of

from serving.contract.bundle import Bundle
from serving.contract.fields import FeatureSpec
from serving.ranking.ranker import Ranker

MAX_BODY_BYTES, MAX_CANDIDATES = 20_000, 50
CANDIDATES = [{"id": f"item-{i}", "price": 1.5 * i, "tags": [i, i + 1]} for i in range(20)]
BODY: dict[str, Any] = {
    "user": {"user_id": "ann", "segment": 3, "history": ["a", "b"], "age": 41},
    "context": {"device": "phone"},
    "candidates": CANDIDATES,
}


@pytest.fixture(scope="module")
def running(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    folder = tmp_path_factory.mktemp("service")
    limits = {"PILOTAGE_MAX_BODY_BYTES": str(MAX_BODY_BYTES), "PILOTAGE_MAX_CANDIDATES": str(MAX_CANDIDATES)}
    with service_of([*PILOTAGE, str(tiny_bundle.path)], folder, "/readyz", **limits) as service:
        yield service


@pytest.fixture
def client(running: tuple[httpx.Client, psutil.Process]) -> httpx.Client:
    return running[0]


def _workers(process: psutil.Process) -> set[int]:
    return {child.pid for child in process.children(recursive=True)}


def _counts(client: httpx.Client) -> dict[str, float]:
    """Read the requests by status, and the candidates under ``sum``."""
    text = client.get("/metrics").text
    found = re.findall(r'pilotage_request_seconds_count\{model="tiny",status="(\d+)",version="1"\} (\S+)', text)
    total = re.search(r'pilotage_request_candidates_sum\{model="tiny",version="1"\} (\S+)', text)
    return {status: float(count) for status, count in found} | {"sum": float(total[1]) if total else 0.0}


def test_answers_are_the_ones_of_the_same_bundle_in_this_process(client: httpx.Client, tiny_bundle: Bundle) -> None:
    answer = client.post("/v1/rank", json=BODY).raise_for_status().json()
    ranker = Ranker(tiny_bundle, threads=1, max_candidates=MAX_CANDIDATES)
    expected = ranker.rank(ranker.decoder.decode(json.dumps(BODY).encode()))
    assert answer["model"] == {"name": "tiny", "version": "1"}
    assert [item["id"] for item in answer["ranking"]] == expected.ids
    given = [item["probability"] for item in answer["ranking"]]
    assert given == pytest.approx(expected.probabilities.tolist(), abs=1e-6)  # the same graph, one thread: rounding at most
    assert given == sorted(given, reverse=True)
    assert len(set(given)) > 10
    for top_k in (1, 3, 10_000):
        assert client.post("/v1/rank", json={**BODY, "top_k": top_k}).json()["ranking"] == answer["ranking"][:top_k]


def test_ties_keep_the_order_of_the_request(client: httpx.Client, tiny_spec: FeatureSpec) -> None:
    field = next(field for field in tiny_spec.categorical if field.name == "id")
    buckets: dict[int, list[str]] = {}
    for i in range(400):
        buckets.setdefault(mmh3.hash(f"id-{i}", field.seed, signed=False) % field.buckets, []).append(f"id-{i}")
    tied = max(buckets.values(), key=len)
    assert len(tied) >= 5
    for ids in (tied, tied[::-1]):  # without a user nothing but the bucket of the id counts
        ranking = client.post("/v1/rank", json={"context": {"device": "d"}, "candidates": [{"id": id_} for id_ in ids]}).json()["ranking"]
        assert [item["id"] for item in ranking] == ids
        assert len({item["probability"] for item in ranking}) == 1


@pytest.mark.parametrize("given", ["abc-123", "A.b:c_d-" + "9" * 56])
def test_a_plain_request_id_is_handed_back(client: httpx.Client, given: str) -> None:
    for body in (json.dumps(BODY), "{"):
        answer = client.post("/v1/rank", content=body, headers={"x-request-id": given})
        document = answer.json()
        assert answer.headers["x-request-id"] == document.get("error", document)["request_id"] == given


@pytest.mark.parametrize("given", [None, "", "a" * 65, 'a"b', "a b", "é".encode()])
def test_any_other_request_id_is_replaced(client: httpx.Client, given: str | bytes | None) -> None:
    headers = {} if given is None else {"x-request-id": given}
    made = {client.post("/v1/rank", json=BODY, headers=headers).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert all(re.fullmatch(r"[0-9a-f]{16}", id_) for id_ in made)


def test_refusals_tell_place_rule_and_value(client: httpx.Client) -> None:
    answer = client.post("/v1/rank", json={**BODY, "user": {"segment": "x"}})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
    error = answer.json()["error"]
    assert (error["code"], error["request_id"]) == ("invalid_request", answer.headers["x-request-id"])
    assert error["violations"] == [{"path": "$.user.segment", "rule": "Expected `int | null`, got `str`", "value": '"x"'}]
    too_many = client.post("/v1/rank", json={**BODY, "candidates": CANDIDATES[:1] * (MAX_CANDIDATES + 1)})
    assert f"<= {MAX_CANDIDATES}" in too_many.json()["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"not json"])
def test_what_is_not_json_is_400(client: httpx.Client, content: bytes) -> None:
    answer = client.post("/v1/rank", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")


def test_bodies_over_the_limit_are_413_with_and_without_a_declared_length(client: httpx.Client) -> None:
    padded = json.dumps(BODY).encode().ljust(MAX_BODY_BYTES)
    assert client.post("/v1/rank", content=padded).status_code == 200  # at the limit
    for content in (padded + b" ", iter([padded, b" "]), iter([b" " * 1000] * 21)):
        answer = client.post("/v1/rank", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert str(MAX_BODY_BYTES) in answer.json()["error"]["message"]
    assert client.post("/v1/rank", content=iter([padded[:500], padded[500:]])).status_code == 200  # chunked, at the limit


def test_other_methods_and_paths_are_refused(client: httpx.Client) -> None:
    assert client.get("/v1/rank").status_code == 405
    answer = client.post("/v1/models")
    assert (answer.status_code, answer.json()["error"]["message"]) == (405, "this route takes GET, HEAD, not POST")
    assert client.get("/v1/absent").status_code == 404


def test_metrics_count_what_was_sent(client: httpx.Client) -> None:
    before = _counts(client)
    for _ in range(4):
        client.post("/v1/rank", json=BODY)
    for _ in range(3):
        client.post("/v1/rank", json={**BODY, "candidates": []})
    for _ in range(2):
        client.post("/v1/rank", content=b"{")
    client.post("/v1/rank", content=b" " * (MAX_BODY_BYTES + 1))
    client.get("/v1/models")
    after = _counts(client)
    growth = {key: after[key] - before.get(key, 0) for key in after}
    assert growth == {"200": 4, "422": 3, "400": 2, "413": 1, "sum": 4 * len(CANDIDATES)}


def test_the_page_asks_no_other_host_and_finds_its_files(client: httpx.Client) -> None:
    page = client.get("/").raise_for_status().text
    assert not re.search(r"https?://|[\"']//", page)
    references = re.findall(r'(?:href|src)="([^"]+)"|url: "([^"]+)"', page)
    assert len(references) >= 3
    for reference in references:
        client.get("/" + "".join(reference)).raise_for_status()


def test_the_openapi_description_is_whole_and_follows_the_specification(client: httpx.Client, tiny_spec: FeatureSpec) -> None:
    document = client.get("/openapi.json").raise_for_status().json()
    assert document["openapi"].startswith("3.")
    v1 = {path for path in document["paths"] if not path.startswith("/v2")}
    assert v1 == {"/v1/rank", "/v1/models/tiny/rank", "/v1/models", "/livez", "/readyz", "/metrics", "/ui"}
    assert "/v2/models/tiny/infer" in document["paths"]
    schemas = document["components"]["schemas"]
    for reference in set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    for part in ("user", "context", "candidate"):
        assert set(schemas[part.capitalize()]["properties"]) == {field.name for field in tiny_spec.of_part(part)}  # type: ignore[arg-type]
    assert schemas["Context"]["required"] == ["device"]
    assert schemas["RankRequest"]["properties"]["candidates"]["maxItems"] == MAX_CANDIDATES
    assert set(document["paths"]["/v1/rank"]["post"]["responses"]) == {
        "200",
        "400",
        "401",
        "404",
        "405",
        "406",
        "413",
        "415",
        "422",
        "500",
        "503",
        "504",
    }


def test_probes_say_yes_and_models_lists_the_bundle(client: httpx.Client, tiny_spec: FeatureSpec) -> None:
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    (model,) = client.get("/v1/models").raise_for_status().json()["models"]
    assert (model["name"], model["version"], model["family"], model["max_candidates"]) == ("tiny", "1", "ranking", MAX_CANDIDATES)
    assert FeatureSpec.model_validate(model["features"]) == tiny_spec


def _bad_bodies(count: int) -> Iterator[bytes]:
    """Valid bodies with bytes changed, cut out, put in; and the shapes that break parsers."""
    dice = random.Random(20261)
    good = json.dumps({**BODY, "candidates": CANDIDATES[:3]}).encode()
    yield from (b"[" * depth + b"1" + b"]" * depth for depth in (*range(880, 1000), 9_000))
    yield from (b'{"\\ud800":NaN}', b'{"candidates":[1e999]}', b'{"' + b"k" * 9_000 + b'":1}', b'{"user":' * 2_000, b"\x00" * 99)
    tokens = [b"NaN", b"null", b"{}", b"[]", b'"\\udfff"', b"-1e400", b"9" * 400, b'"\xf0\x9f"', b"[" * 50, b",", b'"id":', b"\\"]
    for _ in range(count):
        body = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(body))
            body[at : at + dice.randint(0, 12)] = dice.choice([dice.randbytes(3), dice.choice(tokens), b"", bytes([body[at] ^ 1])])
        yield bytes(body[: dice.randrange(len(body))] if dice.random() < 0.2 else body)


def test_a_storm_of_bad_bodies_is_refused_and_the_same_worker_goes_on(running: tuple[httpx.Client, psutil.Process]) -> None:
    client, process = running
    workers, expected = _workers(process), client.post("/v1/rank", json=BODY).json()["ranking"]
    statuses: list[int] = []
    for body in _bad_bodies(150):
        answer = client.post("/v1/rank", content=body)
        statuses.append(answer.status_code)
        assert statuses[-1] in {200, 400, 422}, (statuses[-1], body[:300])
        assert ("ranking" if answer.status_code == 200 else "error") in answer.json()
        assert len(answer.content) < 10_000
    assert statuses.count(400) > 50
    assert statuses.count(422) > 50
    assert workers == _workers(process) != set()
    assert client.post("/v1/rank", json=BODY).json()["ranking"] == expected


def test_a_terminated_service_ends_in_time_and_leaves_no_child(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with service_of([*PILOTAGE, str(tiny_bundle.path)], tmp_path, "/readyz") as (client, process):
        assert client.post("/v1/rank", json=BODY).status_code == 200
        family = [process, *process.children(recursive=True)]
        assert len(family) > 1
        process.terminate()
        assert psutil.wait_procs(family, STOP_LIMIT_S)[1] == []
        with pytest.raises(httpx.ConnectError):
            client.get("/livez")


@pytest.fixture
def damaged(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path / "damaged"))
    os.truncate(copy / "model.onnx", 100)
    return copy


def test_a_service_with_a_damaged_bundle_lives_but_is_not_ready_and_says_why(damaged: Path, tmp_path: Path) -> None:
    with service_of(BENTOML, tmp_path, "/livez", PILOTAGE_BUNDLE=str(damaged)) as (client, process):
        workers = _workers(process)
        assert client.get("/readyz").status_code == 503
        assert "file 'model.onnx' has 100 bytes" in client.get("/readyz").text
        answer = client.post("/v1/rank", json=BODY, headers={"x-request-id": "r1"})
        assert (answer.status_code, answer.headers["x-request-id"], answer.json()["error"]["code"]) == (503, "r1", "not_ready")
        assert client.get("/v1/models").json() == {"models": []}
        assert {client.get(path).status_code for path in ("/livez", "/openapi.json", "/metrics")} == {200}
        assert _workers(process) == workers


@pytest.mark.parametrize(("bundle", "reason"), [("damaged", "'model.onnx' has 100 bytes"), ("absent", "no such folder")])
def test_serve_refuses_a_bad_bundle_before_it_listens(damaged: Path, bundle: str, reason: str) -> None:
    command = [*PILOTAGE, str(damaged.with_name(bundle)), "--port", str(free_port())]
    environment = environment_of(damaged.with_name("home"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", ["/v1/nope", "/v1/models/tiny/nope", "/v2/nope"])
def test_a_route_that_is_not_there_is_told_in_the_services_own_words(client: httpx.Client, path: str) -> None:
    response = client.get(path, headers={"x-request-id": "mine"})
    assert response.status_code == 404
    assert response.headers["x-request-id"] == "mine"
    assert "no such route" in response.text
    assert response.headers["content-type"] == "application/json"
