"""Which answers count as a success."""

from __future__ import annotations

import json

import pytest

from loadtests.sources.answers import failure_kind
from loadtests.sources.payloads import Body
from loadtests.sources.refusals import MAX_CODE_LENGTH

SENT = Body(data=b"", candidates=3, ids=frozenset({"a", "b", "c"}), top_k=2)


def _answer(*ranking: tuple[object, float]) -> bytes:
    return json.dumps({"request_id": "r", "ranking": [{"id": id_, "probability": p} for id_, p in ranking]}).encode()


def test_a_full_ranking_is_a_success() -> None:
    assert failure_kind(200, _answer(("b", 0.9), ("a", 0.9)), SENT, in_full=True) is None


@pytest.mark.parametrize("content", [b"", b"ok", b"{}", b'{"ranking":[]}', b'{"ranking":[{"id":"a"}]}', _answer(("a", 1.5)), b"\xff"])
def test_status_200_without_a_usable_ranking_is_a_failure(content: bytes) -> None:
    assert failure_kind(200, content, SENT, in_full=False) == "answer without a usable ranking"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (_answer(("a", 0.9)), "too few"),
        (_answer(("a", 0.9), ("b", 0.8), ("c", 0.7)), "too many"),
        (_answer(("a", 0.9), ("x", 0.8)), "not sent"),
        (_answer(("a", 0.9), ("a", 0.8)), "twice"),
        (_answer(("a", 0.1), ("b", 0.8)), "not sorted"),
    ],
)
def test_the_full_check_holds_the_answer_against_its_request(content: bytes, kind: str) -> None:
    assert kind in str(failure_kind(200, content, SENT, in_full=True))
    assert failure_kind(200, content, SENT, in_full=False) is None


def test_errors_are_told_apart_by_status_and_code() -> None:
    assert failure_kind(500, b"boom", SENT, in_full=False) == "HTTP 500"
    assert failure_kind(422, b'{"error":{"code":"invalid_request","message":"m"}}', SENT, in_full=False) == "HTTP 422 invalid_request"
    assert failure_kind(503, b'{"error":"overloaded: try again"}', SENT, in_full=False) == "HTTP 503 overloaded"
    assert failure_kind(400, b'{"error":"$.inputs.id: Expected BYTES"}', SENT, in_full=False) == "HTTP 400"
    long_code = json.dumps({"error": {"code": "x" * 1000}}).encode()
    assert len(str(failure_kind(503, long_code, SENT, in_full=False))) == len("HTTP 503 ") + MAX_CODE_LENGTH
