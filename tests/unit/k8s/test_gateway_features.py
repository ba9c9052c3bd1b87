"""What a rollout that copies requests asks of gateways before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8s.errors import Refused, Unfit
from k8s.rollout.plan import Plan
from k8s.routing.features import MIRROR, MIRROR_SHARE, check_mirror
from tests.rollouts import NEW, Town, plan, roll_out

GATEWAYS = "/apis/gateway.networking.k8s.io/v1/namespaces/gateways/gateways/public"
CLASS = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/edge"
PARENT = {"name": "public", "namespace": "gateways"}


class Api:
    """An API server that has these objects, and forbids what is in `forbidden`."""

    def __init__(self, features: list[Any] | None, *forbidden: str) -> None:
        status = {} if features is None else {"supportedFeatures": features}
        self.objects: dict[str, Any] = {
            GATEWAYS: {"spec": {"gatewayClassName": "edge"}},
            CLASS: {"spec": {"controllerName": "example.com/edge"}, "status": status},
        }
        self.forbidden = forbidden

    def get(self, path: str) -> Any:
        if path in self.forbidden:
            raise Refused(f"GET {path}: 403 forbidden")
        return self.objects.get(path)


def check(api: Any, pct: int = 20, parent: dict[str, Any] | None = None) -> str | None:
    return check_mirror(api, "models", [parent or PARENT], pct)


@pytest.mark.parametrize("features", [[{"name": MIRROR}, {"name": MIRROR_SHARE}], [MIRROR, MIRROR_SHARE]], ids=["objects", "strings"])
def test_a_gateway_that_says_it_can_is_taken_at_its_word(features: list[Any]) -> None:
    assert check(Api(features)) is None


def test_a_gateway_without_mirroring_is_refused_by_name_with_what_to_do() -> None:
    with pytest.raises(Unfit) as caught:
        check(Api([{"name": "HTTPRoute"}]), 100)
    said = str(caught.value)
    assert caught.value.exit_code == 2  # a Job need not try again
    assert "gateway gateways/public cannot: GatewayClass edge (example.com/edge) has no HTTPRouteRequestMirror among its features" in said
    assert "set mirror_pct to 0" in said


def test_a_share_takes_a_feature_of_its_own_and_all_of_the_requests_do_not() -> None:
    assert check(Api([{"name": MIRROR}]), 100) is None
    with pytest.raises(Unfit, match="has no HTTPRouteRequestPercentageMirror among"):
        check(Api([{"name": MIRROR}]), 99)


@pytest.mark.parametrize(
    ("api", "said"),
    [
        (Api(None), "GatewayClass edge does not say what it can"),
        (Api([]), "GatewayClass edge does not say what it can"),
        (Api([{"name": "HTTPRoute"}], CLASS), "GatewayClass edge cannot be read (GET"),
        (Api([{"name": "HTTPRoute"}], GATEWAYS), "Gateway gateways/public cannot be read"),
    ],
)
def test_what_cannot_be_found_out_is_said_and_allowed(api: Any, said: str) -> None:
    assert said in str(check(api))


def test_a_gateway_that_is_not_there_or_is_none_is_not_known() -> None:
    assert "there is no Gateway models/public" in str(check(Api(None), parent={"name": "public"}))
    assert "Service mesh is no Gateway" in str(check(Api(None), parent={"name": "mesh", "kind": "Service", "group": ""}))


def test_one_gateway_of_several_that_cannot_is_enough() -> None:
    api = Api([{"name": "HTTPRoute"}])
    with pytest.raises(Unfit, match="gateways/public cannot"):
        check_mirror(api, "models", [{"name": "public"}, PARENT], 100)


class Deaf(Town):
    """Copies nothing, and says so, or does not know."""

    unknown: str | None = None

    def check_mirror(self, pct: int) -> str | None:
        self.do(f"check {pct}")
        if self.unknown is None:
            raise Unfit("no copies here")
        return self.unknown


def _copying(**more: Any) -> Plan:
    return plan(step=[{"weight_pct": 0, "mirror_pct": 20, "samples": 1000}, {"weight_pct": 5, "mirror_pct": 60, "samples": 1000}], **more)


@pytest.mark.parametrize(("warm_up", "asked"), [({"requests": 300, "mirror_pct": 5}, 5), ({"requests": 0, "mirror_pct": 5}, 20)])
def test_a_plan_that_copies_is_refused_before_anything_is_done(tmp_path: Path, warm_up: dict[str, int], asked: int) -> None:
    town = Deaf(tmp_path)
    with pytest.raises(Unfit, match="no copies here"):
        roll_out(town, _copying(warm_up=warm_up))
    assert town.facts["log"] == [f"check {asked}"]
    assert town.world("another").journal.load() is None


def test_a_plan_that_copies_nothing_asks_nothing(tmp_path: Path) -> None:
    town = Deaf(tmp_path)
    assert roll_out(town, plan(warm_up={"requests": 300, "mirror_pct": 0})).outcome == "promoted"
    assert not any(call.startswith("check") for call in town.facts["log"])


def test_what_is_not_known_is_told_once_and_the_rollout_goes_on(tmp_path: Path) -> None:
    town = Deaf(tmp_path)
    town.unknown = "nobody knows"
    record = roll_out(town, _copying(finish="discard"))
    assert [(entry.what, entry.detail) for entry in record.timeline[:2]] == [
        ("started", f"{NEW.name} by plan test, over old"), ("note", "nobody knows")
    ]  # fmt: skip
    assert [entry.what for entry in record.timeline].count("note") == 1
