"""Images to classify: all forms read by the service's own decoder, labels that are new each time, and answers judged by what was asked."""

from __future__ import annotations

import io
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loadtests.calls import Call
from loadtests.sources.classification import classification
from loadtests.sources.classify import ClassifyCheck
from loadtests.sources.envelope import Envelope
from loadtests.sources.labels import COUNT, label_list
from loadtests.sources.pool import MAX_POOL_BYTES, Source
from loadtests.sources.service import Classifier
from loadtests.sources.traffic import ClassifyRequests, Traffic
from serving.clip.label_rules import require_labels
from serving.clip.requests import ClassifyRequest, ClassifyTypes, image_files
from serving.contract.errors import SettingsError
from serving.protocol.answers import Model
from serving.protocol.classify import classify_answer, image_answer
from serving.services.classify_bodies import decoder_of

MODEL = Classifier("scenes", "1", max_images=4, max_labels=50, is_multi_label=False)
SMALL: dict[str, Any] = {"endpoint": "classify", "pixels": "24x16,16x24", "pictures": 4, "labels": 5, "bodies": 8}


def _source(salt: str | None = "s", seed: int = 0, **settings: Any) -> Source:
    entry = ClassifyRequests(**{**SMALL, **settings})
    traffic = Traffic(new_label_salt=salt)
    return classification(entry, MODEL, Envelope("classify", "/v1/classify"), traffic, (), seed, MAX_POOL_BYTES)[0]


def _read(call: Call) -> ClassifyRequest:
    path, _, query = call.path.partition("?")
    assert path == "/v1/classify"
    headers = {name.lower().encode(): value.encode() for name, value in call.headers.items()}
    return decoder_of(headers, query.encode(), ClassifyTypes(MODEL.max_images, MODEL.max_labels))(call.body)


@pytest.mark.parametrize(
    "settings", [{"form": "multipart", "images": "1,3"}, {"form": "base64", "images": "2", "format": "png"}, {"form": "image"}]
)
def test_every_form_is_read_by_the_service_with_its_images_and_options(settings: dict[str, Any]) -> None:
    source = _source(**settings, top_k=3, templates="plain", multi_label=True)
    sizes = set()
    for index in range(8):
        call = source.call(index)
        request = _read(call)
        assert request.labels is not None
        assert (len(request.labels), request.top_k, request.templates, request.multi_label) == (5, 3, "plain", True)
        for content in image_files(request, 16):
            assert isinstance(content, bytes)
            image = Image.open(io.BytesIO(content))
            assert image.format == settings.get("format", "jpeg").upper()
            sizes.add(image.size)
        assert call.size == len(request.images)
    assert sizes == {(24, 16), (16, 24)}


def test_same_seed_gives_the_same_bytes_and_another_seed_gives_others() -> None:
    first, again, other = ([_source(seed=seed).call(index).body for index in range(8)] for seed in (1, 1, 2))
    assert first == again
    assert set(first).isdisjoint(other)


def test_more_images_than_the_service_takes_are_never_sent() -> None:
    assert {_source(images="1,9").call(index).size for index in range(8)} == {1, 4}


def test_lists_of_labels_are_such_as_the_service_takes() -> None:
    for length in (1, 100, COUNT):
        require_labels(label_list(length, Random(length).random), COUNT)


def test_the_first_lists_of_labels_are_asked_for_most() -> None:
    source = _source(label_lists=4, bodies=200)
    asked = [tuple(_read(source.call(index)).labels or ()) for index in range(200)]
    counts = sorted((asked.count(labels) for labels in set(asked)), reverse=True)
    assert len(counts) == 4
    assert counts[0] > 2 * counts[-1]


@pytest.mark.parametrize("form", ["multipart", "base64", "image"])
def test_a_new_label_is_another_one_in_every_call_and_the_same_for_the_same_number(form: str) -> None:
    source = _source(form=form, new_label_pct=100)
    new = [tuple(_read(source.call(index)).labels or ())[-1] for index in range(30)]
    assert len(set(new)) == 30
    assert source.call(7) == source.call(7)
    assert set(new).isdisjoint(
        tuple(_read(_source(None, form=form, new_label_pct=100).call(index)).labels or ())[-1] for index in range(30)
    )


def test_the_share_of_new_labels_is_kept() -> None:
    source = _source(new_label_pct=20)
    with_new = sum(len(_read(source.call(index)).labels or ()) == 6 for index in range(500))
    assert 60 < with_new < 140


def test_a_list_that_is_as_long_as_it_may_be_keeps_its_length_with_a_new_label() -> None:
    labels = _read(_source(labels=MODEL.max_labels, new_label_pct=100).call(0)).labels
    assert labels is not None
    assert len(labels) == MODEL.max_labels


def test_more_labels_than_the_service_takes_are_refused() -> None:
    with pytest.raises(SettingsError, match="51 labels, scenes takes at most 50"):
        _source(labels=51)


LABELS = ["a", "b", "c"]


def _answer(*images: tuple[list[str], list[float]]) -> bytes:
    return classify_answer(
        Model("scenes", "1"),
        "r",
        [
            image_answer(
                labels, np.arange(len(labels)), np.array(chances, np.float32), np.array(chances, np.float32),
                best=None, none_of_these=None, embedding=None,
            )
            for labels, chances in images
        ],
    )  # fmt: skip


WHOLE = (LABELS, [0.5, 0.3, 0.2])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (_answer(WHOLE, WHOLE), None),
        (_answer(WHOLE), "answer with another number of images"),
        (_answer(WHOLE, (LABELS[:2], [0.5, 0.5])), "answer with another number of labels"),
        (_answer(WHOLE, (["a", "b", "b"], [0.5, 0.3, 0.2])), "answer with labels that were not sent, or one twice"),
        (_answer(WHOLE, (["a", "b", "x"], [0.5, 0.3, 0.2])), "answer with labels that were not sent, or one twice"),
        (_answer(WHOLE, (LABELS, [0.2, 0.3, 0.5])), "answer not sorted by probability"),
        (_answer(WHOLE, (LABELS, [0.5, 0.3, 0.1])), "answer with probabilities that do not sum to 1"),
        (_answer(WHOLE, (LABELS, [1.5, 0.3, 0.1])), "answer without usable labels"),
        (b'{"images": [{"best": 1}, {"best": 2}]}', "answer without usable labels"),
        (b"ok", "answer without usable labels"),
    ],
)
def test_answers_are_held_against_their_request(content: bytes, kind: str | None) -> None:
    check = ClassifyCheck(images=2, labels=frozenset(LABELS), top_k=None, shares=True)
    assert check(200, {}, content, in_full=True) == kind


def test_the_cheap_check_counts_images_and_reads_no_labels() -> None:
    check = ClassifyCheck(images=1, labels=frozenset(LABELS), top_k=None, shares=True)
    assert check(200, {}, _answer((["x"], [0.1])), in_full=False) is None
    assert check(200, {}, _answer(WHOLE, WHOLE), in_full=False) == "answer with another number of images"
    assert check(503, {}, b'{"error":{"code":"label_set_not_ready"}}', in_full=False) == "HTTP 503 label_set_not_ready"


def test_labels_that_hold_independently_need_not_sum_to_one_and_few_may_stay_below() -> None:
    independent = ClassifyCheck(images=1, labels=frozenset(LABELS), top_k=None, shares=False)
    assert independent(200, {}, _answer((LABELS, [0.9, 0.9, 0.9])), in_full=True) is None
    few = ClassifyCheck(images=1, labels=frozenset(LABELS), top_k=1, shares=True)
    assert few(200, {}, _answer((["a"], [0.5])), in_full=True) is None


def test_a_new_label_counts_as_sent_and_its_place_holder_does_not() -> None:
    call = _source(new_label_pct=100, labels=["a"]).call(3)
    (old, new) = tuple(_read(call).labels or ())
    assert call.check(200, {}, _answer(([old, new], [0.6, 0.4])), in_full=True) is None
    assert call.check(200, {}, _answer(([old, "new-label-that-stands-here-until-it-is-sent"], [0.6, 0.4])), in_full=True) is not None
