"""What a rollout on a cluster tries: the canaries that the chart prepared, and what the command line puts in their place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8s.errors import Refused
from k8s.installation import Installation
from k8s.rollout.ports import Arm
from serving.contract.errors import SettingsError
from tests.charts.rendering import changed
from tests.clusters import NAMES, Cluster, api_of, cluster, rollout_values

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
