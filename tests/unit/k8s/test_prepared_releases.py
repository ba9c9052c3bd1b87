"""What a rollout on a cluster tries: the canaries that the chart prepared, and what the command line puts in their place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster.prometheus import PrometheusAccess
from k8s.errors import Refused, Unfit
from k8s.installation import Installation
from k8s.rollout.arms import Arm
from k8s.rollout.loading import Compared
from k8s.rollout.start import begin
from serving.contract.errors import SettingsError
from tests.charts.rendering import changed
from tests.clusters import NAMES, Cluster, api_of, cluster, rollout_values
from tests.rollouts import plan

FIRST, SECOND, OTHER = (f"registry.example/pilotage@sha256:{digit * 64}" for digit in "456")


@pytest.fixture
def here() -> Iterator[Cluster]:
    with cluster(changed(rollout_values(), {"rollout.variants": [{"image": {"digest": SECOND.partition("@")[2]}}]})) as installation:
        yield installation


def test_all_that_are_prepared_are_tried_in_their_order(here: Cluster) -> None:
    found = Installation(NAMES, api_of(here.server)).releases([], [])
    assert [release.image for release in found] == [FIRST, SECOND]
    assert len({release.name for release in found}) == 2


def test_images_replace_those_of_the_values_by_position_and_only_so_many_are_tried(here: Cluster) -> None:
    installation = Installation(NAMES, api_of(here.server))
    assert [release.image for release in installation.releases([], [OTHER])] == [OTHER]
    assert [release.image for release in installation.releases([], [OTHER, FIRST])] == [OTHER, FIRST]
    with pytest.raises(
        SettingsError, match=r"3 images are given, and the chart has prepared 2: rollout\.variants of its values must have 2"
    ):
        installation.releases([], [OTHER, FIRST, SECOND])


def test_an_image_given_in_place_of_the_charts_is_another_release_even_where_the_chart_says_stables(here: Cluster) -> None:
    data = here.server.objects[NAMES.config_map(NAMES.rollout)]["data"]
    data["canary.json"] = data["canary.json"].replace(FIRST, here.image("stable"))
    fleet = Installation(NAMES, api_of(here.server)).fleet
    assert fleet.releases()[0].name == fleet.stable_release().name
    (given,) = Installation(NAMES, api_of(here.server)).releases([], [OTHER])
    assert given.name != fleet.stable_release().name
    assert Installation(NAMES, api_of(here.server)).releases(["spring"], [OTHER])[0].name == "spring"


def test_names_go_by_position_too_and_choose_nothing(here: Cluster) -> None:
    installation = Installation(NAMES, api_of(here.server))
    named, other = installation.releases(["spring"], [])
    assert (named.name, named.image) == ("spring", FIRST)
    assert (other.name, other.image) == (installation.releases([], [])[1].name, SECOND)
    with pytest.raises(SettingsError, match="2 names are given for 1 releases: spring, summer"):
        installation.releases(["spring", "summer"], [OTHER])


@pytest.mark.parametrize("arm", ["canary", "canary-2"])
def test_the_one_with_other_resources_is_named(arm: Arm, here: Cluster) -> None:
    data = here.server.objects[NAMES.config_map(NAMES.rollout)]["data"]
    data[f"{arm}.json"] = data[f"{arm}.json"].replace('"memory":"2Gi"', '"memory":"3Gi"')
    with pytest.raises(Refused, match=f"the values of the {arm} differ from stable's in more than image and bundles"):
        Installation(NAMES, api_of(here.server)).fleet.releases()


COPYING = {"answers": {"mirror_pct": 10}, "warm_up": {"requests": 300}}
AT = "127.0.0.1:8090"


def test_copies_reach_an_engine_that_was_told_where(here: Cluster) -> None:
    installation = Installation(NAMES, api_of(here.server))
    world = installation.world(plan(**COPYING), "engine", collect_at=AT)
    assert world.collects
    assert world.answers is not None
    # The chart's Job says it of every rollout; most plans compare nothing.
    world = installation.world(plan(), "engine", collect_at=AT)
    assert (world.collects, world.answers) == (False, None)


def test_an_engine_elsewhere_is_refused_before_anything_begins_with_what_to_do(here: Cluster) -> None:
    installation = Installation(NAMES, api_of(here.server))
    world, before = installation.world(plan(**COPYING), "engine"), dict(here.server.objects)
    assert (world.collects, world.answers) == (False, None)
    with pytest.raises(Unfit, match=r"rollout\.job\.enabled.*--requests-file"):
        begin(world, NAMES.name, plan(**COPYING), installation.releases([], []), "engine")
    assert here.server.objects == before


def test_an_address_to_listen_at_must_be_one_whatever_the_plan_is(here: Cluster) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        Installation(NAMES, api_of(here.server)).world(plan(), "engine", collect_at="8090")


def test_live_requests_alone_are_enough_to_compare_answers_on(here: Cluster) -> None:
    only: dict[str, Any] = {"synthetic": None, "live": {}, "warm_up": {"requests": 0}, "step": [{"weight_pct": 5}]}
    installation, prometheus = Installation(NAMES, api_of(here.server)), PrometheusAccess("http://127.0.0.1:9")
    asked = plan(**COPYING | only)
    assert isinstance(installation.world(asked, "engine", collect_at=AT, prometheus=prometheus).traffic["live"], Compared)
    assert not isinstance(installation.world(plan(**only), "engine", collect_at=AT, prometheus=prometheus).traffic["live"], Compared)


def test_recorded_requests_go_to_the_arms_services_where_the_engine_is_near_them(here: Cluster, tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_text('{"candidates": [{"id": 1}]}\n')
    installation, asked = Installation(NAMES, api_of(here.server)), plan(answers={})
    with pytest.raises(SettingsError, match="--gateway"):
        installation.world(asked, "engine", requests_file=tmp_path / "requests.jsonl")
    assert installation.world(asked, "engine", requests_file=tmp_path / "requests.jsonl", collect_at=AT).answers is not None
