"""Bodies with images: JSON, forms and plain files make the same request; what is damaged is refused."""

from __future__ import annotations

import base64
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.clip.requests import ClassifyRequest, ClassifyTypes, Image, image_files
from serving.contract.errors import InvalidRequest, MalformedRequest, RequestError, UnsupportedMedia
from serving.protocol.multipart import read_parts
from serving.services.classify_bodies import decoder_of

TYPES = ClassifyTypes(max_images=3, max_labels=5)
FILE = bytes(range(256)) + b"\r\n--x\r\n--"
OPTIONS = {"labels": ["cat", "dög"], "top_k": 2, "threshold": 0.25, "multi_label": True, "none_of_these": "neither", "embeddings": True}


def _form(*parts: tuple[str, bytes], boundary: str = "xYz") -> tuple[bytes, bytes]:
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\nContent-Type: a/b\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in parts
    )
    return f"multipart/form-data; boundary={boundary}".encode(), body + f"--{boundary}--\r\n".encode()


def _decode(content_type: bytes, body: bytes, query: bytes = b"") -> ClassifyRequest:
    return decoder_of({b"content-type": content_type}, query, TYPES)(body)


def _seen(request: ClassifyRequest) -> dict[str, object]:
    names = ("labels", "label_set", "templates", "multi_label", "threshold", "none_of_these", "top_k", "embeddings")
    return {name: getattr(request, name) for name in names}


def test_all_forms_make_the_same_request() -> None:
    encoded = base64.b64encode(FILE).decode()
    fields = [("labels", b"cat"), ("labels", "dög".encode()), ("top_k", b"2"), ("threshold", b"0.25"), ("multi_label", b"true")]
    fields += [("none_of_these", b"neither"), ("embeddings", b"1")]
    query = b"label=cat&label=d%C3%B6g&top_k=2&threshold=0.25&multi_label=true&none_of_these=neither&embeddings=true"
    made = [
        _decode(b"application/json; charset=utf-8", json.dumps({"images": [encoded], **OPTIONS}).encode()),
        _decode(*_form(("image", FILE), *fields)),
        _decode(*_form(("request", json.dumps(OPTIONS).encode()), ("image", FILE))),
        _decode(b"image/webp", FILE, query),
    ]
    expected = {"label_set": None, "templates": None, **OPTIONS}
    for request in made:
        assert _seen(request) == expected
        assert image_files(request, 4) == [FILE]


@pytest.mark.parametrize(("text", "value"), [(b"true", True), (b"False", False), (b"nothing here", "nothing here")])
def test_none_of_these_in_a_query_is_a_truth_value_or_a_prompt(text: bytes, value: bool | str) -> None:
    request = _decode(b"image/png", FILE, b"label=a&none_of_these=" + text.replace(b" ", b"+"))
    assert request.none_of_these == value


def test_images_keep_their_order_and_kind() -> None:
    body = {"images": [base64.b64encode(b"a").decode(), {"embedding": [1, 0, 0, 0.5]}, {"base64": "YmM="}], "labels": ["x"]}
    assert image_files(TYPES.decode(json.dumps(body).encode()), 4) == [b"a", [1, 0, 0, 0.5], b"bc"]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (Image(), "one of base64 and embedding"),
        (Image(base64="YQ==", embedding=[1.0]), "one of base64 and embedding"),
        (Image(url="file:///etc/passwd"), "not fetched"),
        (Image(embedding=[0.0, 0.0]), "a direction"),
        (Image(embedding=[1e300, 1e300]), "a direction"),
        (Image(embedding=[1.0]), "the 2 numbers"),
        ("YQ=", "not base64"),
        ("Y Q==", "not base64"),
        ("http://127.0.0.1/", "not fetched"),
    ],
)
def test_what_is_no_image_is_told_by_its_place(image: str | Image, told: str) -> None:
    request = TYPES.request(images=["YQ==", image], labels=["x"])
    with pytest.raises(InvalidRequest, match=told) as caught:
        image_files(request, 2)
    assert caught.value.violations[0].path.startswith("$.images[1]")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (b"", "labels: missing"),
        (b"label=a&top_k=two", "top_k"),
        (b"label=a&top_k=1&top_k=2", "given 2 times"),
        (b"label=a&multi_label=perhaps", "multi_label"),
        (b"label=a&label=a", "the same label"),
        (b"label=a&label_set=b", "the one or the other"),
        (b"label=a&nonsense=b", "no such field"),
        (b"label=%00", "control characters"),
    ],
)
def test_queries_keep_to_the_same_rules(query: bytes, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        _decode(b"image/png", FILE, query)


@pytest.mark.parametrize("query", [b"label=%ff", b"label=\xff", b"&".join([b"a=b"] * 100)])
def test_a_query_that_cannot_be_read_is_malformed(query: bytes) -> None:
    with pytest.raises(MalformedRequest):
        _decode(b"image/png", FILE, query)


def test_options_in_a_query_are_not_overlooked_where_they_do_not_count() -> None:
    for content_type, body in ((b"application/json", b'{"images":["YQ=="],"labels":["a"]}'), _form(("image", FILE), ("labels", b"a"))):
        assert _decode(content_type, body).top_k is None
        with pytest.raises(InvalidRequest, match=r"query: .* put 'top_k' into the body"):
            _decode(content_type, body, b"top_k=1")


def test_a_request_part_stands_alone_and_once() -> None:
    request = ("request", b'{"labels":["a"]}')
    for more in (("labels", b"b"), request):
        with pytest.raises(InvalidRequest):
            _decode(*_form(("image", FILE), request, more))
    with pytest.raises(InvalidRequest, match="1 to 3 images"):
        _decode(*_form(request))


def test_parts_are_bounded_in_number() -> None:
    content_type, body = _form(*[("labels", b"a")] * 200)
    with pytest.raises(MalformedRequest, match="parts"):
        _decode(content_type, body)


def test_other_content_types_are_unsupported() -> None:
    for content_type in (b"text/plain", b"application/octet-stream", b"", b"multipart/mixed; boundary=x"):
        with pytest.raises(UnsupportedMedia, match=r"content-type '.*' is none of"):
            _decode(content_type, FILE)


@settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(noise=st.binary(max_size=60), seed=st.integers(0, 2**32))
def test_no_form_is_more_than_a_refusal(noise: bytes, seed: int) -> None:
    content_type, body = _form(("image", FILE), ("labels", b"cat"), ("top_k", b"1"))
    at = random.Random(seed).randrange(len(body))
    for sent in (body[:at] + noise + body[at + len(noise) // 2 :], body[:at], noise):
        try:
            _decode(content_type, sent)
        except RequestError:
            continue


def test_parts_are_taken_apart_exactly() -> None:
    content_type, body = _form(("a", b""), ("b", FILE), ("ü", b"\r\n"))
    parts = read_parts(content_type, body, 3)
    assert [(part.name, part.filename, part.media, part.content) for part in parts] == [
        ("a", "f", "a/b", b""), ("b", "f", "a/b", FILE), ("ü", "f", "a/b", b"\r\n"),
    ]  # fmt: skip
