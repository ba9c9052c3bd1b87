"""Every kind of request that the load tests send, sent once to a real service of a ranking and a CLIP model that wants a token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_processes import BENTOML, service_of

from loadtests.calls import Call
from loadtests.errors import ServiceError
from loadtests.sources.build import BuiltSource, build_source, check_traffic
from loadtests.sources.traffic import Traffic, read_traffic
from serving.contract.bundle import RankingBundle
from serving.contract.errors import SettingsError
from tests.clip_bundles import tiny_clip_bundle

WORD = "correct-horse-battery-staple"
SMALL = {"pixels": "24x16,16x24", "pictures": 4, "labels": 5, "bodies": 4}


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "tokens"
    path.write_text(f"\n{WORD}\n")
    return path


@pytest.fixture(scope="module")
def client(tiny_bundle: RankingBundle, token_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    clip = tiny_clip_bundle(tmp_path_factory.mktemp("clip") / "bundle")
    settings = {
        "PILOTAGE_BUNDLE": f"{tiny_bundle.path},{clip.path}", "PILOTAGE_TOKEN_FILE": str(token_file), "PILOTAGE_MAX_IMAGES": "3",
        "PILOTAGE_OBJECTIVE_MS": "30000", "PILOTAGE_CLASSIFY_OBJECTIVE_MS": "30000", "PILOTAGE_TEXT_BUDGET_S": "30", "PILOTAGE_MAX_LABELS": "9",
    }  # fmt: skip
    with service_of(BENTOML, tmp_path_factory.mktemp("service"), "/readyz", **settings) as (client, _):
        yield client


def _source(client: httpx.Client, token_file: Path, *requests: dict[str, object], **more: object) -> BuiltSource:
    traffic = read_traffic({"requests": requests, "token_file": token_file, **more}, "test")
    return build_source(str(client.base_url), traffic, 1)


def _send(client: httpx.Client, source: BuiltSource, call: Call) -> str | None:
    answer = client.post(call.path, content=call.body, headers=dict(call.headers))
    return source.failure(call, answer.status_code, answer.headers, answer.content, 1.0)


def _kinds(client: httpx.Client, source: BuiltSource, count: int) -> Counter[tuple[str, str | None]]:
    calls = [source.call(index) for index in range(count)]
    return Counter((call.endpoint, _send(client, source, call)) for call in calls)


def test_every_kind_of_request_is_well_answered_and_judged_so(client: httpx.Client, token_file: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "requests.jsonl"
    recorded.write_text(
        '{"user": {"user_id": "u"}, "context": {"device": "tv"}, "candidates": [{"id": "a", "tags": [1, 2]}, {"id": "b"}]}\n'
    )
    ranking = [{"endpoint": endpoint, "candidates": "1,7,30", "bodies": 6} for endpoint in ("rank", "rank-arrow", "infer")]
    replayed = [{"endpoint": entry["endpoint"], "name": f"{entry['endpoint']}-recorded", "recorded": recorded} for entry in ranking]
    images = [
        {"endpoint": "classify", "name": "multipart", "images": "1,3", **SMALL},
        {"endpoint": "classify", "name": "base64", "form": "base64", "format": "png", "images": "2", "top_k": 2, **SMALL},
        {"endpoint": "classify", "name": "image", "form": "image", "multi_label": True, **SMALL},
        {
            "endpoint": "classify",
            "name": "named",
            "model": "tiny-clip",
            **SMALL,
            "label_set": "colours",
            "labels": ["red", "green", "blue"],
        },
        {"endpoint": "classify", "name": "new", **SMALL, "new_label_pct": 50},
        {"endpoint": "classify", "name": "all-new", "form": "image", **SMALL, "new_label_pct": 100, "templates": "plain"},
    ]
    source = _source(
        client, token_file, *ranking, *replayed, *images, {"endpoint": "rank", "name": "named-rank", "model": "tiny"}, deadline_ms=20000
    )
    names = {
        "rank",
        "rank-arrow",
        "infer",
        "rank-recorded",
        "rank-arrow-recorded",
        "infer-recorded",
        *(str(entry["name"]) for entry in images),
        "named-rank",
    }
    kinds = _kinds(client, source, 120)
    assert {endpoint for endpoint, _ in kinds} == set(source.endpoints) == names
    assert {kind for _, kind in kinds} == {None}
    assert "tiny 1" in source.told()


def test_without_a_word_the_first_model_is_asked(client: httpx.Client, token_file: Path) -> None:
    source = _source(client, token_file)
    assert source.endpoints == ("rank",)
    assert _kinds(client, source, 2) == {("rank", None): 2}


def test_a_registered_label_set_is_found_again_and_other_labels_are_refused(client: httpx.Client, token_file: Path) -> None:
    entry = {"endpoint": "classify", **SMALL, "label_set": "pets"}
    with pytest.raises(SettingsError, match=r"give its labels as well"):
        _source(client, token_file, {**entry, "labels": None})
    _source(client, token_file, {**entry, "labels": ["a cat", "a dog"]})
    again = _source(client, token_file, {**entry, "labels": None})
    assert _kinds(client, again, 1) == {("classify", None): 1}
    with pytest.raises(SettingsError, match="take another name"):
        _source(client, token_file, {**entry, "labels": ["a cow"]})


def test_what_does_not_fit_the_service_is_explained(client: httpx.Client, token_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="wants a bearer token"):
        build_source(str(client.base_url), Traffic(), 0)
    wrong = tmp_path / "wrong"
    wrong.write_text("x" * 20)
    with pytest.raises(SettingsError, match=f"the token of {wrong} is not known"):
        build_source(str(client.base_url), Traffic(token_file=wrong), 0)
    with pytest.raises(
        ServiceError, match=r"no model of the family 'ranking' that is called 'tiny-clip'.*tiny \(ranking\), tiny-clip \(clip\)"
    ):
        _source(client, token_file, {"endpoint": "rank", "model": "tiny-clip"})
    with pytest.raises(SettingsError, match="10 labels, tiny-clip takes at most 9"):
        _source(client, token_file, {"endpoint": "classify", "labels": 10})
    with pytest.raises(SettingsError, match=r"HTTP 422.* the same label as"):
        _source(client, token_file, {"endpoint": "classify", "labels": ["a", "a"]})
    with pytest.raises(ServiceError, match=r"no TLS connection .* http://"):
        build_source(str(client.base_url).replace("http:", "https:"), Traffic(), 0)


def test_what_can_be_told_without_making_anything_is_told_at_once(client: httpx.Client, token_file: Path, tmp_path: Path) -> None:
    host, empty = str(client.base_url), tmp_path / "empty.jsonl"
    empty.write_text("")
    traffic = read_traffic(
        {"token_file": token_file, "requests": [{"endpoint": "classify"}, {"endpoint": "infer", "recorded": empty}]}, "test"
    )
    with pytest.raises(SettingsError, match="holds no request"):
        check_traffic(host, traffic)
    traffic = read_traffic({"token_file": token_file, "requests": [{"endpoint": "classify", "model": "tiny"}]}, "test")
    with pytest.raises(ServiceError, match="no model of the family 'clip' that is called 'tiny'"):
        check_traffic(host, traffic, also=[host])
    check_traffic(host, Traffic(token_file=token_file), also=[host])


def test_the_service_reads_the_caller_s_deadline(client: httpx.Client, token_file: Path) -> None:
    source = _source(client, token_file, {"endpoint": "classify", **SMALL, "deadline_ms": 1, "new_label_pct": 100})
    assert source.call(0).headers["x-request-timeout-ms"] == "1"
    # A machine that answers within the millisecond is welcome to; a header that it cannot read would be 400.
    assert set(_kinds(client, source, 3)) <= {("classify", "HTTP 504 deadline_exceeded"), ("classify", None)}
