"""Classification over HTTP, by real processes on loopback: what a caller of any kind sees."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from service_processes import BENTOML, STOP_LIMIT_S, service_of

from serving.contract.bundle import ClipBundle, RankingBundle
from tests.clip_bundles import COLOURS, DIM, picture, tiny_clip_bundle

MAX_LABELS, MAX_IMAGES = 200, 4
LABELS = [*COLOURS, "a dog"]


def _base64(colour: str) -> str:
    return base64.b64encode(picture(colour)).decode()


@pytest.fixture(scope="module")
def clip_bundle(tmp_path_factory: pytest.TempPathFactory) -> ClipBundle:
    return tiny_clip_bundle(tmp_path_factory.mktemp("clip") / "bundle")


@pytest.fixture(scope="module")
def client(clip_bundle: ClipBundle, tiny_bundle: RankingBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A ranking bundle and a clip bundle, in one worker."""
    limits = {
        "PILOTAGE_MAX_LABELS": str(MAX_LABELS), "PILOTAGE_MAX_IMAGES": str(MAX_IMAGES), "PILOTAGE_MAX_UPLOAD_BYTES": "100000",
        "PILOTAGE_CLASSIFY_OBJECTIVE_MS": "30000", "PILOTAGE_TEXT_BUDGET_S": "30",
    }  # fmt: skip
    bundles = f"{tiny_bundle.path},{clip_bundle.path}"
    with service_of(BENTOML, tmp_path_factory.mktemp("service"), "/readyz", PILOTAGE_BUNDLE=bundles, **limits) as (client, _):
        yield client


def _best(answer: httpx.Response) -> list[str | None]:
    return [image["best"] for image in answer.raise_for_status().json()["images"]]


def test_every_form_of_request_is_answered_alike(client: httpx.Client) -> None:
    expected = client.post("/v1/classify", json={"images": [_base64("red")], "labels": LABELS}).raise_for_status().json()
    assert expected["model"] == {"name": "tiny-clip", "version": "1"}
    (image,) = expected["images"]
    assert (image["best"], image["labels"][0]["label"]) == ("red", "red")
    probabilities = [label["probability"] for label in image["labels"]]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert probabilities == sorted(probabilities, reverse=True)
    file = {"image": ("a.png", picture("red"), "image/png")}
    answers = [
        client.post("/v1/models/tiny-clip/classify", json={"images": [{"base64": _base64("red")}], "labels": LABELS}),
        client.post("/v1/classify", json={"images": ["data:image/png;base64," + _base64("red")], "labels": LABELS}),
        client.post("/v1/classify", files=file, data={"labels": LABELS}),
        client.post("/v1/classify", files={**file, "request": (None, json.dumps({"labels": LABELS}), "application/json")}),
        client.post("/v1/classify", content=picture("red"), headers={"content-type": "image/png"}, params={"label": LABELS}),
    ]
    for answer in answers:
        assert answer.raise_for_status().json()["images"] == expected["images"]
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_several_images_come_back_in_their_order(client: httpx.Client) -> None:
    colours = ["blue", "red", "green", "red"]
    assert _best(client.post("/v1/classify", json={"images": [_base64(each) for each in colours], "labels": LABELS})) == colours
    files = [("image", picture(colour, "JPEG")) for colour in colours]
    assert _best(client.post("/v1/classify", files=files, data={"labels": LABELS, "top_k": "1"})) == colours


def test_embeddings_can_be_sent_back_with_other_labels(client: httpx.Client) -> None:
    asked = client.post("/v1/classify", json={"images": [_base64("green")], "embeddings": True}).raise_for_status().json()["images"][0]
    assert (len(asked["embedding"]), asked["labels"], asked["best"]) == (DIM, [], None)
    again = client.post("/v1/classify", json={"images": [{"embedding": asked["embedding"]}, _base64("red")], "labels": LABELS})
    assert _best(again) == ["green", "red"]
    whole = client.post("/v1/classify", json={"images": [_base64("green")], "labels": LABELS}).json()["images"][0]
    for ours, theirs in zip(again.json()["images"][0]["labels"], whole["labels"], strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["similarity"] == pytest.approx(theirs["similarity"], abs=1e-5)


def test_options_do_what_they_say(client: httpx.Client) -> None:
    def ask(**options: Any) -> Any:
        body = {"images": [_base64("red")], "labels": LABELS, **options}
        return client.post("/v1/classify", json=body).raise_for_status().json()["images"][0]

    assert len(ask(top_k=2)["labels"]) == 2
    independent = ask(multi_label=True)["labels"]
    alone = ask(multi_label=True, labels=["a dog"])["labels"][0]
    assert next(label for label in independent if label["label"] == "a dog") == pytest.approx(alone, abs=1e-6)
    assert "none_of_these" not in ask()
    null = ask(labels=["green", "blue"], none_of_these="red")
    assert (null["best"], null["none_of_these"] > 0.9) == (None, True)
    assert ask(none_of_these=True)["best"] == "red"
    nothing = ask(labels=["green", "blue"], multi_label=True, threshold=1.0)
    assert (nothing["best"], nothing["labels"]) == (None, [])
    for templates in ("plain", "simple", "imagenet80", ["a {} thing", "{}"]):
        assert ask(templates=templates)["best"] == "red"


def test_label_sets_are_registered_asked_listed_and_forgotten(client: httpx.Client) -> None:
    made = client.put("/v1/label-sets/colours", json={"labels": LABELS})
    assert (made.status_code, made.json()["count"], made.json()["templates"]) == (201, 4, None)
    assert _best(client.post("/v1/classify", json={"images": [_base64("blue")], "label_set": "colours"})) == ["blue"]
    raw = client.post("/v1/classify?label_set=colours&top_k=1", content=picture("green", "JPEG"), headers={"content-type": "image/jpeg"})
    assert _best(raw) == ["green"]
    shown = client.get("/v1/label-sets/colours").raise_for_status().json()
    assert shown["labels"] == LABELS
    assert shown["models"] == [{"name": "tiny-clip", "version": "1", "embedded": 4, "ready": True}]
    assert [each["name"] for each in client.get("/v1/label-sets").json()["label_sets"]] == ["colours"]
    assert client.put("/v1/label-sets/colours", json={"labels": ["x"], "templates": ["my {}"]}).status_code == 200
    assert client.get("/v1/label-sets/colours").json()["templates"] == ["my {}"]
    assert client.delete("/v1/label-sets/colours").status_code == 204
    for gone in (client.get("/v1/label-sets/colours"), client.delete("/v1/label-sets/colours")):
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "unknown_label_set")
    answer = client.post("/v1/classify", json={"images": [_base64("blue")], "label_set": "colours"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_label_set")


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"labels": LABELS}, 422, "missing required field `images`"),
        ({"images": [], "labels": LABELS}, 422, "length >= 1"),
        ({"images": [_base64("red")] * (MAX_IMAGES + 1), "labels": LABELS}, 422, f"length <= {MAX_IMAGES}"),
        ({"images": [_base64("red")]}, 422, "$.labels: missing"),
        ({"images": [_base64("red")], "labels": []}, 422, "length >= 1"),
        ({"images": [_base64("red")], "labels": ["a", "b", "a"]}, 422, "$.labels[2]: the same label as $.labels[0]"),
        ({"images": [_base64("red")], "labels": ["a\u0000"]}, 422, "$.labels[0]: control characters"),
        ({"images": [_base64("red")], "labels": ["  "]}, 422, "$.labels[0]: a label must have something to read"),
        ({"images": [_base64("red")], "labels": [""]}, 422, "length >= 1"),
        ({"images": [_base64("red")], "labels": ["x" * 257]}, 422, "length <= 256"),
        ({"images": [_base64("red")], "labels": [str(i) for i in range(MAX_LABELS + 1)]}, 422, f"length <= {MAX_LABELS}"),
        ({"images": [_base64("red")], "labels": LABELS, "label_set": "x"}, 422, "the one or the other"),
        ({"images": [_base64("red")], "labels": LABELS, "templates": "eighty"}, 422, "imagenet80"),
        ({"images": [_base64("red")], "labels": LABELS, "templates": ["no place"]}, 422, "$.templates[0]"),
        ({"images": [_base64("red")], "labels": LABELS, "none_of_these": "red"}, 422, "$.none_of_these"),
        ({"images": [_base64("red")], "labels": LABELS, "threshold": 1.5}, 422, "$.threshold"),
        ({"images": [_base64("red")], "labels": LABELS, "top_k": 0}, 422, "$.top_k"),
        ({"images": [_base64("red")], "labels": LABELS, "tempaltes": "single"}, 422, "$.tempaltes: no such field"),
        ({"images": ["https://example.org/cat.jpg"], "labels": LABELS}, 422, "not fetched"),
        ({"images": [{"url": "https://example.org/cat.jpg"}], "labels": LABELS}, 422, "not fetched"),
        ({"images": ["!!"], "labels": LABELS}, 422, "$.images[0]: not base64"),
        ({"images": [{}], "labels": LABELS}, 422, "one of base64 and embedding"),
        ({"images": [_base64("red"), base64.b64encode(b"GIF8 no").decode()], "labels": LABELS}, None, "$.images[1]"),
        ({"images": [{"embedding": [1.0]}], "labels": LABELS}, 422, f"the {DIM} numbers"),
        ({"images": [{"embedding": [0.0] * DIM}], "labels": LABELS}, 422, "have a direction"),
    ],
    ids=lambda value: "body" if isinstance(value, dict) else None,
)
def test_bad_requests_are_told_what_to_mend(client: httpx.Client, body: dict[str, Any], status: int | None, told: str) -> None:
    answer = client.post("/v1/classify", json=body)
    assert answer.status_code == status or (status is None and 400 <= answer.status_code < 500)
    assert told in answer.json()["error"]["message"]
    assert len(answer.content) < 5000


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{", 400),
        ("text/plain", b"red", 415),
        ("multipart/form-data", b"--x\r\n", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\nabc", 400),
        ("multipart/form-data; boundary=x", b"nonsense", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: text/plain\r\n\r\nabc\r\n--x--\r\n", 400),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="labels"\r\n\r\n\xff\r\n--x--\r\n', 400),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="labels"\r\n\r\na\r\n--x--\r\n', 422),
        ("image/png", b"", 422),
        ("application/json", b'{"images":["' + b"A" * 100_000 + b'"]}', 413),
    ],
)
def test_what_cannot_be_read_is_a_4xx(client: httpx.Client, content_type: str, content: bytes, status: int) -> None:
    query = {"label": "a"} if content_type.startswith("image/") else None
    answer = client.post("/v1/classify", params=query, content=content, headers={"content-type": content_type})
    assert (answer.status_code, "error" in answer.json()) == (status, True)


def test_a_million_labels_are_refused(client: httpx.Client) -> None:
    body = json.dumps({"images": [_base64("red")], "labels": [f"label {i}" for i in range(10**6)]})
    assert client.post("/v1/classify", content=body).status_code == 413
    assert client.put("/v1/label-sets/huge", content=body).status_code == 413
    assert client.put("/v1/label-sets/many", json={"labels": [str(i) for i in range(MAX_LABELS + 1)]}).status_code == 422


def test_each_family_is_asked_at_its_own_routes_and_both_are_listed(client: httpx.Client) -> None:
    listed = {model["name"]: model for model in client.get("/v1/models").raise_for_status().json()["models"]}
    assert {name: model["family"] for name, model in listed.items()} == {"tiny": "ranking", "tiny-clip": "clip"}
    assert listed["tiny-clip"]["clip"]["embedding_size"] == DIM
    assert (listed["tiny-clip"]["max_labels"], listed["tiny-clip"]["max_images"]) == (MAX_LABELS, MAX_IMAGES)
    ranked = client.post("/v1/rank", json={"context": {"device": "phone"}, "candidates": [{"id": "a"}]})
    assert ranked.raise_for_status().json()["model"]["name"] == "tiny"
    for path, other in (
        ("/v1/models/tiny/classify", "/v1/models/tiny/rank"),
        ("/v1/models/tiny-clip/rank", "/v1/models/tiny-clip/classify"),
    ):
        answer = client.post(path, json={})
        assert (answer.status_code, other in answer.json()["error"]["message"]) == (404, True)
    assert client.get("/v1/classify").status_code == 405
    paths = client.get("/openapi.json").raise_for_status().json()["paths"]
    assert {"/v1/classify", "/v1/models/tiny-clip/classify", "/v1/label-sets", "/v1/label-sets/{name}", "/v1/rank"} <= set(paths)


def test_deadlines_are_kept(client: httpx.Client) -> None:
    body = {"images": [_base64("red")], "labels": [f"never seen {i}" for i in range(MAX_LABELS)], "templates": "imagenet80"}
    late = client.post("/v1/classify", json=body, headers={"x-request-timeout-ms": "1"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert client.post("/v1/classify", json=body, headers={"x-request-timeout-ms": "soon"}).status_code == 400
    assert client.post("/v1/classify", json=body).status_code == 200


def test_stages_and_sizes_are_measured(client: httpx.Client) -> None:
    client.post("/v1/classify", json={"images": [_base64("red")] * 2, "labels": LABELS}).raise_for_status()
    text = client.get("/metrics").text
    stages = set(re.findall(r'pilotage_stage_seconds_count\{model="tiny-clip",stage="(\w+)"', text))
    assert stages == {"decode", "preprocess", "queue", "run", "text", "score"}
    assert 'pilotage_request_images_count{model="tiny-clip"' in text
    assert 'pilotage_request_labels_count{model="tiny-clip"' in text
    assert 'pilotage_run_requests_count{model="tiny-clip"' in text


def test_workers_share_label_sets_and_embeddings_and_a_restart_finds_them(clip_bundle: ClipBundle, tmp_path: Path) -> None:
    state = tmp_path / "state"
    settings = {"PILOTAGE_BUNDLE": str(clip_bundle.path), "PILOTAGE_WORKERS": "2", "PILOTAGE_STATE_DIR": str(state)}
    labels = [*COLOURS, *(f"thing {i}" for i in range(500))]
    with service_of(BENTOML, tmp_path, "/readyz", **settings) as (client, _):
        assert client.put("/v1/label-sets/things", json={"labels": labels}).status_code == 201
        for _ in range(12):  # connections of their own, so that both workers are asked
            answer = httpx.post(
                client.base_url.join("/v1/classify?label_set=things&top_k=3"), content=picture("red"), headers={"content-type": "image/png"}
            )
            assert _best(answer) == ["red"]
            assert httpx.get(client.base_url.join("/v1/label-sets/things")).json()["models"][0]["ready"]
    shards = sorted((state / "label-embeddings").glob("*/*.shard"))
    assert shards
    shards[0].write_bytes(b"damaged")
    with service_of(BENTOML, tmp_path, "/readyz", **settings) as (client, _):
        answer = client.post("/v1/classify?label_set=things", content=picture("blue"), headers={"content-type": "image/png"})
        assert _best(answer) == ["blue"]
        assert len(answer.json()["images"][0]["labels"]) == len(labels)


def test_a_new_version_takes_over_and_knows_the_label_sets(clip_bundle: ClipBundle, tmp_path: Path) -> None:
    bundle = tiny_clip_bundle(tmp_path / "bundle")
    settings = {"PILOTAGE_BUNDLE": str(bundle.path), "PILOTAGE_RELOAD_S": "0.1"}
    with service_of(BENTOML, tmp_path, "/readyz", **settings) as (client, _):
        client.put("/v1/label-sets/colours", json={"labels": LABELS}).raise_for_status()
        tiny_clip_bundle(tmp_path / "bundle", version="2", seed=5)
        versions = []
        while not versions or versions[-1] != "2":
            answer = client.post("/v1/classify?label_set=colours", content=picture("green"), headers={"content-type": "image/png"})
            assert _best(answer) == ["green"]
            versions.append(answer.json()["model"]["version"])
            assert len(versions) < 5000
        assert versions[0] == "1"


def test_overload_is_refused_at_once_and_probes_are_answered_meanwhile(clip_bundle: ClipBundle, tmp_path: Path) -> None:
    settings = {"PILOTAGE_BUNDLE": str(clip_bundle.path), "PILOTAGE_CLASSIFY_OBJECTIVE_MS": "40"}
    file = picture((10, 200, 30), "JPEG", (1600, 1200))
    with service_of(BENTOML, tmp_path, "/readyz", **settings) as (client, process):

        async def flood() -> list[httpx.Response]:
            url, headers = client.base_url.join("/v1/classify?label=green&label=red"), {"content-type": "image/jpeg"}
            async with httpx.AsyncClient(trust_env=False, timeout=30, limits=httpx.Limits(max_connections=64)) as many:
                return list(await asyncio.gather(*(many.post(url, content=file, headers=headers) for _ in range(64))))

        answers = asyncio.run(flood())
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert (answer.headers["retry-after"], answer.json()["error"]["code"]) == ("1", "overloaded")
            else:
                assert _best(answer) == ["green"]
        shed = re.search(r'pilotage_shed_total\{model="tiny-clip",reason="overload",version="1"\} (\S+)', client.get("/metrics").text)
        assert shed
        assert float(shed[1]) == sum(answer.status_code == 503 for answer in answers)
        family = [process, *process.children(recursive=True)]
        process.terminate()
        assert psutil.wait_procs(family, STOP_LIMIT_S)[1] == []


def test_a_worker_that_is_busy_with_labels_ends_in_time(clip_bundle: ClipBundle, tmp_path: Path) -> None:
    settings = {"PILOTAGE_BUNDLE": str(clip_bundle.path), "PILOTAGE_TEXT_BUDGET_S": "0.001"}
    with service_of(BENTOML, tmp_path, "/readyz", **settings) as (client, process):
        client.put(
            "/v1/label-sets/many", json={"labels": [f"thing {i}" for i in range(10_000)], "templates": "imagenet80"}
        ).raise_for_status()
        answer = client.post("/v1/classify?label_set=many", content=picture("red"), headers={"content-type": "image/png"})
        assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (503, "label_set_not_ready", "1")
        assert "labels of the set 'many' are still to be embedded" in answer.json()["error"]["message"]
        family = [process, *process.children(recursive=True)]
        process.terminate()
        assert psutil.wait_procs(family, STOP_LIMIT_S)[1] == []


def test_label_sets_that_cannot_be_written_are_our_fault_and_leak_nothing(clip_bundle: ClipBundle, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with service_of(BENTOML, tmp_path, "/readyz", PILOTAGE_BUNDLE=str(clip_bundle.path), PILOTAGE_STATE_DIR=str(state)) as (client, _):
        (state / "label-sets").write_text("in the way")
        answer = client.put("/v1/label-sets/pets", json={"labels": ["cat"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert str(tmp_path) not in answer.text
        packed = client.put("/v1/label-sets/pets", content=gzip.compress(b"{"), headers={"content-encoding": "gzip"})
        assert packed.status_code == 400
