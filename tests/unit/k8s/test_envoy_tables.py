"""Envoy's files: what is written can be read back, the same content is the same version, and nothing listens beyond loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from k8s.errors import Refused
from k8s.rollout.arms import ARMS, Weights
from k8s.routing.envoy_tables import Split, bootstrap, endpoints, routes, split_of

SPLITS = [Split(), Split(Weights(90, 5, 5), 25), Split(Weights(0, 50, 50), 100, sticky=True), Split(Weights(99, 0, 1), 0, sticky=True)]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_a_split_is_read_back_from_its_table(split: Split) -> None:
    assert split_of(routes(split)["resources"][0]) == split


def test_the_same_split_is_the_same_version_and_another_is_another() -> None:
    versions = [routes(split)["version_info"] for split in (*SPLITS, *SPLITS)]
    assert versions[: len(SPLITS)] == versions[len(SPLITS) :]
    assert len(set(versions)) == len(SPLITS)


def test_weights_of_several_canaries_are_read_back_as_they_were_written() -> None:
    weights = Weights.shared({"stable": 60, "canary": 20, "canary-2": 15, "canary-4": 5})
    assert split_of(routes(Split(weights))["resources"][0]).weights == weights == Weights(60, 0, 20, (15, 0, 5, 0))
    assert [weights.of(arm) for arm in ARMS] == [60, 0, 20, 15, 0, 5, 0]
    assert (weights.tried, str(weights)) == (40, "stable 60, baseline 0, canary 20, canary-2 15, canary-3 0, canary-4 5")


def test_ports_in_another_order_are_the_same_endpoints() -> None:
    assert endpoints("stable", [2, 1]) == endpoints("stable", [1, 2]) != endpoints("stable", [1])


def test_forced_requests_come_before_the_weights_and_are_never_mirrored() -> None:
    table = routes(Split(Weights(50, 0, 50), 100, sticky=True))["resources"][0]["virtual_hosts"][0]["routes"]
    assert [route["name"] for route in table] == [*(f"forced-{arm}" for arm in ARMS), "live-known", "live"]
    assert [bool(route["route"].get("request_mirror_policies")) for route in table] == [False] * len(ARMS) + [True] * 2


@pytest.mark.parametrize(
    "table", [{}, {"virtual_hosts": []}, {"virtual_hosts": [{"routes": [{"name": "live", "route": {"cluster": "x"}}]}]}]
)
def test_a_table_of_somebody_else_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(Refused, match="not one of ours"):
        split_of(table)


def test_nothing_listens_beyond_loopback() -> None:
    text = json.dumps([bootstrap(Path("/folder"), 8080, "/readyz"), endpoints("stable", [1])])
    assert {part.split('"')[0] for part in text.split('"address": "')[1:]} == {"127.0.0.1"}
