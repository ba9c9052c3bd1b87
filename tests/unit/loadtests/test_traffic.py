"""The table of what is sent: defaults that are promises, and mistakes answered with their place and the rule."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.sources.traffic import ClassifyRequests, RankRequests, Traffic, parse_mix, read_traffic
from serving.contract.errors import SettingsError


def test_defaults_are_promises() -> None:
    traffic = Traffic()
    assert (traffic.requests, traffic.deadline_ms, traffic.token_file, traffic.ca_file) == ((), None, None, None)
    assert (traffic.values.zipf_exponent, traffic.values.missing_pct) == (1.0, 5.0)
    rank, classify = RankRequests(endpoint="rank"), ClassifyRequests(endpoint="classify")
    assert (rank.name, rank.weight, rank.bodies, rank.top_k, rank.candidates) == ("rank", 1.0, 256, 10, "20:20,100:60,500:20")
    assert (classify.form, classify.images, classify.warm, classify.new_label_pct, classify.top_k) == ("multipart", "1", True, 0.0, 0)


def test_endpoints_with_weights_can_be_written_in_one_word() -> None:
    rank, infer, classify = parse_mix("rank:70, infer:20,classify")
    assert [(entry.endpoint, entry.weight) for entry in (rank, infer, classify)] == [("rank", 70), ("infer", 20), ("classify", 1)]
    with pytest.raises(SettingsError, match="no endpoint is called 'rang'; there are rank, rank-arrow, infer, classify"):
        parse_mix("rang:1")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"request": []}, "request: no such setting"),
        ({"requests": [{}]}, r"requests\[0\]"),
        (
            {"requests": [{"endpoint": "rang"}]},
            r"requests\[0\]: no 'endpoint' is called 'rang'; there are 'rank', 'rank-arrow', 'infer', 'classify'",
        ),
        ({"requests": [{"endpoint": "rank", "pixels": "8x8"}]}, r"requests\[0\].pixels: no such setting"),
        ({"requests": [{"endpoint": "rank", "candidates": "0"}]}, r"requests\[0\].candidates: .* at least 1 of candidates"),
        ({"requests": [{"endpoint": "rank", "deadline_ms": 0}]}, r"requests\[0\].deadline_ms: .* got 0"),
        ({"requests": [{"endpoint": "rank", "weight": 0}]}, r"requests\[0\].weight: .* got 0"),
        ({"requests": [{"endpoint": "rank"}, {"endpoint": "rank"}]}, "2 entries are called 'rank'; give each a name"),
        ({"requests": [{"endpoint": "classify", "pixels": "640"}]}, r"requests\[0\].pixels: .*write WIDTHxHEIGHT"),
        ({"requests": [{"endpoint": "classify", "pixels": "1x9"}]}, r"sides are 8 to 16384 pixels long, got 1x9"),
        ({"requests": [{"endpoint": "classify", "form": "image", "images": "2"}]}, "form 'image' sends one image a request"),
        ({"requests": [{"endpoint": "classify", "labels": ["a"], "label_lists": 2}]}, "label_lists is 2, but the labels are given"),
        ({"requests": [{"endpoint": "classify", "label_set": "a", "new_label_pct": 5}]}, "leave out label_lists and new_label_pct"),
        ({"values": {"zipf_exponent": -1}}, "values.zipf_exponent: .* got -1"),
    ],
)
def test_a_mistake_is_answered_with_its_place_and_the_rule(document: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_traffic(document, "the profile")
