"""What of an answer is compared: the scores of a ranking, and the best labels of images."""

from __future__ import annotations

import json
from typing import Any

import pytest

from k8s.rollout.questions import Asked, Labels, Pair, Ranking, answer_to, comparable, compare

RANKED = Asked(b'{"candidates": [{"id": 1}]}')
CLASSIFIED = Asked(b"", path="/v1/classify")


def said(asked: Asked, **document: Any) -> Ranking | Labels | None:
    return answer_to(asked, json.dumps(document).encode())


def image(best: str | None, **labels: float) -> dict[str, Any]:
    ranked = sorted(labels.items(), key=lambda each: -each[1])
    return {"best": best, "labels": [{"label": label, "probability": value, "similarity": 0.2} for label, value in ranked]}


def test_scores_are_read_in_falling_order() -> None:
    found = said(RANKED, ranking=[{"id": "a", "probability": 0.9}, {"id": 2, "probability": 0.1}])
    assert isinstance(found, Ranking)
    assert list(found.scores.items()) == [("a", 0.9), (2, 0.1)]


@pytest.mark.parametrize(
    "document",
    [
        {"ranking": [{"id": "a", "probability": 0.9}] * 2},
        {"ranking": [{"id": "a", "probability": 1.5}]},
        {"ranking": [{"id": "a", "probability": None}]},
        {"ranking": [{"id": "a"}]},
        {"ranking": []},
        {"images": [image("a cat", cat=1.0)]},
        {},
    ],
)
def test_what_is_no_ranking_is_none(document: dict[str, Any]) -> None:
    assert said(RANKED, **document) is None
    assert answer_to(RANKED, b"[" * 100_000) is answer_to(RANKED, b"no JSON") is answer_to(RANKED, b"[]") is None


def test_candidates_are_put_side_by_side_whatever_their_order() -> None:
    stable, canary = Ranking({"a": 0.9, "b": 0.5, "c": 0.1}), Ranking({"c": 0.8, "a": 0.4, "b": 0.2})
    assert compare(stable, canary, 2) == Pair([0.9, 0.5, 0.1], [0.4, 0.2, 0.8], 0.5)
    assert compare(stable, Ranking({"a": 0.9}), 2) is None


def test_of_an_image_the_best_label_is_read_and_how_probable_it_is() -> None:
    found = said(CLASSIFIED, images=[image("cat", cat=0.9, dog=0.1), image(None, cat=0.3, dog=0.2), image(None)])
    assert found == Labels((("cat", 0.9), (None, 0.3), (None, 0.0)))


@pytest.mark.parametrize(
    "document",
    [
        {"images": []},
        {"images": [image(None) | {"embedding": [0.1]}]},  # labels were not asked for
        {"images": [{"labels": []}]},
        {"images": [image("cat", cat=1.5)]},
        {"ranking": [{"id": "a", "probability": 0.9}]},
    ],
)
def test_what_is_no_classification_is_none(document: dict[str, Any]) -> None:
    assert said(CLASSIFIED, **document) is None


def test_best_labels_are_put_side_by_side_image_by_image() -> None:
    stable = Labels((("cat", 0.9), ("dog", 0.8), (None, 0.2), ("cat", 0.7)))
    canary = Labels((("cat", 0.6), ("cat", 0.5), (None, 0.1), ("cat", 1.0)))
    assert compare(stable, canary, 10) == Pair([0.9, 0.8, 0.2, 0.7], [0.6, 0.5, 0.1, 1.0], 0.75, labels=True)
    assert compare(stable, Labels(canary.best[:3]), 10) is compare(stable, Ranking({"a": 1.0}), 10) is None


@pytest.mark.parametrize(
    ("path", "media", "whether"),
    [
        ("/v1/rank", "application/json; charset=utf-8", True),
        ("/v1/models/ads/rank?x=1", "Application/JSON", True),
        ("/v1/rank", "application/vnd.apache.arrow.stream", False),
        ("/v1/classify", "multipart/form-data; boundary=x", True),
        ("/v1/models/clip/classify?label=a%0Acat", "image/webp", True),
        ("/v1/classify", "text/plain", False),
        ("/v1/models/a/b/classify", "image/png", False),
        ("/v1/rank/", "application/json", False),
        ("/v2/models/ads/infer", "application/json", False),
    ],
)
def test_which_requests_can_be_compared(path: str, media: str, whether: bool) -> None:
    assert comparable(path, media) is whether
