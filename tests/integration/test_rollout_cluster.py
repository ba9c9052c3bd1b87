"""The engine and its adapters against a stateful stand-in for the API server, with faults, and killed as the operating system kills."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from k8s.cluster.fleet import FLOOR_ANNOTATION, DeploymentFleet
from k8s.cluster.journal import ConfigMapJournal
from k8s.cluster.lease import ClusterLease
from k8s.cluster.pods import ready_endpoints
from k8s.errors import Conflict, NotHeld, Refused, Unavailable
from k8s.rollout.arms import Arm, Weights
from k8s.rollout.record import Request
from k8s.routing.gateway import GatewayRouter
from tests.api_server import Refuse
from tests.charts.rendering import changed
from tests.clusters import NAMES, WRITES, Clock, Cluster, api_of, cluster, is_action, kill_at, roll_out_in, rollout_values
from tests.rollouts import plan

OLD = f"registry.example/pilotage@sha256:{'1' * 64}"
NEW = f"registry.example/pilotage@sha256:{'4' * 64}"
SHORT = plan(step=[{"weight_pct": 10, "samples": 1000}], times={"proven_s": 0, "poll_s": 1, "api_s": 30})


@pytest.fixture
def here() -> Iterator[Cluster]:
    with cluster() as installation:
        yield installation


def _is_settled(here: Cluster, image: str) -> None:
    objects = here.server.objects
    assert here.image("stable") == image
    assert NAMES.route not in objects
    assert NAMES.deployment("canary") not in objects
    assert NAMES.deployment("baseline") not in objects
    scaler = objects[NAMES.scalers[1][0]]
    assert scaler["spec"]["minReplicas"] == 2
    assert FLOOR_ANNOTATION not in (scaler["metadata"].get("annotations") or {})


def test_a_good_release_is_promoted_and_everything_else_is_put_away(here: Cluster) -> None:
    shares: list[Any] = []

    def note(method: str, path: str) -> None:
        if path == NAMES.route and method == "PATCH":
            shares.append([ref["weight"] for ref in here.server.objects[path]["spec"]["rules"][-1]["backendRefs"]])
            assert here.server.objects[path]["metadata"]["ownerReferences"][0]["uid"] == here.stable["metadata"]["uid"]
            assert here.server.objects[NAMES.scalers[1][0]]["spec"]["minReplicas"] == 3
        if path == NAMES.deployment("canary") and method == "PATCH":
            assert here.image("canary") == NEW
            assert here.server.objects[path]["metadata"]["ownerReferences"][0]["name"] == "ranker-pilotage-stable"
        if path == NAMES.deployment("baseline") and method == "PATCH":
            assert here.image("baseline") == OLD

    here.server.after = note
    here.own("helm")
    record = roll_out_in(here.server)
    assert (record.outcome, record.conclusion) == ("promoted", "pass")
    assert [80, 10, 10] in shares
    assert shares[-1] == [100, 0, 0]
    _is_settled(here, NEW)
    assert here.server.objects[f"{NAMES.leases}/{NAMES.rollout}"]["spec"]["holderIdentity"] == ""
    told = [each["message"] for path, each in here.server.objects.items() if path.startswith(NAMES.events)]
    assert any("returning → cleaning" in message for message in told)
    assert here.server.objects[NAMES.deployment("stable")]["spec"]["replicas"] == 3


def test_a_slow_release_is_rolled_back_and_stable_is_never_written_to(here: Cluster) -> None:
    record = roll_out_in(here.server, slow=2.0)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    _is_settled(here, OLD)
    assert ("PATCH", NAMES.deployment("stable")) not in here.server.requests


def test_conflicts_throttling_failures_and_slow_answers_change_nothing_about_the_end(here: Cluster) -> None:
    count = 0

    def fault(method: str, path: str) -> float | None:
        nonlocal count
        count += 1
        if count % 17 == 3:
            raise Refuse(429, "slow down", retry_after=1)
        if count % 17 == 7:
            raise Refuse(500 + count % 4, "the server is not well")
        if count % 17 == 11 and method in WRITES:
            raise Refuse(409, "the object has been modified; please apply your changes to the latest version and try again")
        return 0.05 if count % 17 == 15 else None

    here.server.fault = fault
    assert roll_out_in(here.server, SHORT).outcome == "promoted"
    _is_settled(here, NEW)


def test_an_answer_that_is_lost_after_the_write_is_made_good(here: Cluster) -> None:
    count = 0

    def lose(method: str, path: str) -> None:
        nonlocal count
        count += method in WRITES
        if method in WRITES and count % 3 == 0:
            raise Refuse(504, "the write took effect, and nobody heard of it")

    here.server.after = lose
    assert roll_out_in(here.server, SHORT).outcome == "promoted"
    _is_settled(here, NEW)


@pytest.mark.parametrize("victim", ["route", "journal", "lease", "canary"])
def test_objects_deleted_under_it_are_made_again(here: Cluster, victim: str) -> None:
    where = {
        "route": NAMES.route,
        "journal": NAMES.config_map(NAMES.journal),
        "lease": f"{NAMES.leases}/{NAMES.rollout}",
        "canary": NAMES.deployment("canary"),
    }[victim]
    deleted: list[str] = []

    def delete(method: str, path: str) -> None:
        route = here.server.objects.get(NAMES.route)
        if not deleted and route and route["spec"]["rules"][-1]["backendRefs"][2]["weight"] == 10 and method == "PATCH":
            deleted.append(where)
            here.server.objects.pop(where)
            here.control()

    here.server.after = delete
    record = roll_out_in(here.server, plan(step=[{"weight_pct": 10, "bake_s": 12}], times={"proven_s": 0, "poll_s": 1}))
    assert deleted
    assert record.outcome == "promoted"
    if victim in ("journal", "lease"):
        assert here.server.objects[where]["metadata"]["ownerReferences"][0]["uid"] == here.stable["metadata"]["uid"]
    assert (record.drifts, record.losses) == ({"route": 1}.get(victim, 0), {"canary": 1}.get(victim, 0))
    _is_settled(here, NEW)


def test_a_canary_whose_image_cannot_be_pulled_gets_no_weight_and_says_why(here: Cluster) -> None:
    here.broken = {"ranker-pilotage-canary"}
    record = roll_out_in(here.server, plan(times={"ready_s": 20, "poll_s": 2}))
    assert record.outcome == "rolled_back"
    assert "canary: ranker-pilotage-canary-0: ImagePullBackOff" in record.why
    _is_settled(here, OLD)


def test_a_stable_that_a_gitops_controller_owns_is_left_to_it(here: Cluster) -> None:
    here.own("argocd-controller")
    record = roll_out_in(here.server, SHORT)
    assert record.outcome == "rolled_back"
    assert "argocd-controller owns the release of ranker-pilotage-stable" in record.why
    _is_settled(here, OLD)


def test_a_person_is_heard_through_the_cluster(here: Cluster) -> None:
    journal = ConfigMapJournal(api_of(here.server), NAMES)

    def abort(method: str, path: str) -> None:
        if path == NAMES.route and method == "PATCH" and journal.request is not None and "asked" not in here.broken:
            here.broken.add("asked")
            annotation = Request(id="1", wish="abort", by="a person", at_s=1e6 + 1).model_dump_json()
            metadata = here.server.objects[NAMES.config_map(NAMES.journal)]["metadata"]
            metadata["annotations"] = {"pilotage.dev/request": annotation}

    here.server.after = abort
    record = roll_out_in(here.server, SHORT)
    assert record.why == "abort, asked by a person"
    _is_settled(here, OLD)


def test_what_a_person_asks_does_not_disturb_the_engines_writes(here: Cluster) -> None:
    roll_out_in(here.server, SHORT, slow=2.0)
    journal = ConfigMapJournal(api_of(here.server), NAMES)
    stored = journal.load()
    assert stored is not None
    asked = Request(id="1", wish="pause", by="a person", at_s=2e6)
    journal.ask(asked)
    assert journal.request() == asked
    assert journal.save(stored.record, stored.version) == stored.version
    with pytest.raises(Conflict, match="written by another engine"):
        journal.save(stored.record, "0" * 16)


def test_finished_rollouts_are_kept_beside_the_current_one(here: Cluster) -> None:
    roll_out_in(here.server, SHORT, slow=2.0)
    roll_out_in(here.server, SHORT, slow=2.0)
    history = ConfigMapJournal(api_of(here.server), NAMES).history()
    assert [record.outcome for record in history] == ["rolled_back", "rolled_back"]
    assert len({record.id for record in history}) == 2


def test_a_lease_is_taken_only_when_nobody_renewed_it_for_its_whole_time(here: Cluster) -> None:
    clock = Clock()
    first, second = (ClusterLease(api_of(here.server), NAMES, clock, name) for name in ("first", "second"))
    first.acquire()
    with pytest.raises(NotHeld, match="engine first is at work"):
        second.acquire()
    clock.sleep(20)
    first.renew()
    clock.sleep(20)
    with pytest.raises(NotHeld):
        second.acquire()
    clock.sleep(31)
    second.acquire()
    with pytest.raises(NotHeld, match="engine second holds"):
        first.renew()
    first.release()
    second.renew()


def test_lists_are_read_to_their_last_page_and_watches_end(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    api = api_of(here.server)
    monkeypatch.setattr("k8s.cluster.api.PAGE", 2)
    assert len(api.list(NAMES.pods, {"pilotage.dev/arm": "stable"})) == 3
    path, _, name = NAMES.config_map(NAMES.rollout).rpartition("/")
    assert [found["metadata"]["name"] for found in api.watch(path, name, 1)] == [NAMES.rollout]


def test_a_watch_brings_each_change_while_it_is_open(here: Cluster) -> None:
    path = NAMES.config_map(NAMES.rollout)
    watch = api_of(here.server).watch(NAMES.config_maps, NAMES.rollout, 30)
    first = next(watch)
    here.server.put(NAMES.config_map("another"), {"data": {}})
    here.server.objects[path]["data"]["plan.toml"] = "changed in place"
    second = next(watch)
    assert second["data"]["plan.toml"] == "changed in place"
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    here.server.objects.pop(path)
    assert list(watch) == []


def test_an_api_server_that_is_not_there_is_unavailable_not_wrong(here: Cluster) -> None:
    api = api_of(here.server)
    api._configuration.host = "http://127.0.0.1:9"
    with pytest.raises(Unavailable, match="does not answer"):
        api.get(NAMES.route)


def test_what_does_not_fit_its_kind_is_refused_and_not_asked_again(here: Cluster) -> None:
    def fault(method: str, path: str) -> None:
        if method == "PATCH":
            raise Refuse(500, "failed to create typed patch object (x): .spec.new: field not declared in schema")

    here.server.fault = fault
    with pytest.raises(Refused, match="field not declared in schema"):
        GatewayRouter(api_of(here.server), NAMES).write(Weights(90, 5, 5))


def test_a_pod_with_two_addresses_is_one_endpoint() -> None:
    both = [("fd00::1", "fd00::2"), ("10.0.0.1", "10.0.0.2")]
    slices = [{"endpoints": [{"addresses": [address], "targetRef": {"name": f"pod-{address[-1]}"}} for address in each]} for each in both]
    slices.append({"endpoints": [{"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"], "conditions": {"ready": False}}]})
    assert ready_endpoints(slices) == 3


def test_a_write_that_comes_late_does_not_undo_what_another_engine_has_written_since(here: Cluster) -> None:
    router, other = GatewayRouter(api_of(here.server), NAMES), GatewayRouter(api_of(here.server), NAMES)
    router.write(Weights(90, 5, 5))

    def overtaken(method: str, path: str) -> None:
        if method == "PATCH" and path == NAMES.route:
            here.server.fault = lambda method, path: None
            body = copy.deepcopy(here.server.objects[path])
            for ref, weight in zip(body["spec"]["rules"][-1]["backendRefs"], (100, 0, 0), strict=True):
                ref["weight"] = weight
            here.server.put(path, body)

    here.server.fault = overtaken
    with pytest.raises(Conflict):
        router.write(Weights(50, 0, 50))
    assert other.read() == Weights()


def test_a_route_that_the_gateway_does_not_accept_is_not_in_force(here: Cluster) -> None:
    router = GatewayRouter(api_of(here.server), NAMES)
    here.server.changed = lambda: None
    with pytest.raises(Unavailable, match="no gateway has said anything of it"):
        router.write(Weights(90, 5, 5))
    here.server.changed = here.control
    router.write(Weights(90, 5, 5))
    router.mirror(20)
    assert router.read() == Weights(90, 5, 5)
    filters = here.server.objects[NAMES.route]["spec"]["rules"][-1]["filters"]
    assert filters == [
        {
            "type": "RequestMirror",
            "requestMirror": {
                "backendRef": {"group": "", "kind": "Service", "name": "ranker-pilotage-canary", "port": 80},
                "percent": 20,
            },
        }
    ]
    router.mirror(0)
    assert "filters" not in here.server.objects[NAMES.route]["spec"]["rules"][-1]
    router.rest()
    assert router.read() == Weights()


def test_copies_for_the_engine_go_to_the_service_of_its_pod_whatever_the_weights_are(here: Cluster) -> None:
    router = GatewayRouter(api_of(here.server), NAMES)
    engine = {"group": "", "kind": "Service", "name": "ranker-pilotage-rollout", "port": 80}

    def filters() -> Any:
        return here.server.objects[NAMES.route]["spec"]["rules"][-1].get("filters")

    router.mirror(20, "engine")
    for weights in (Weights(90, 5, 5), Weights(50, 0, 50)):
        router.write(weights)
        assert filters() == [{"type": "RequestMirror", "requestMirror": {"backendRef": engine, "percent": 20}}]
        assert router.read() == weights
    router.mirror(100, "engine")
    assert filters() == [{"type": "RequestMirror", "requestMirror": {"backendRef": engine}}]
    assert not [rule for rule in here.server.objects[NAMES.route]["spec"]["rules"][:-1] if rule.get("filters")]
    for pct in (-1, 101):
        with pytest.raises(Refused, match="cannot be mirrored"):
            router.mirror(pct, "engine")
    router.mirror(0)
    assert filters() is None


def test_a_cookie_keeps_its_user_with_an_arm_that_has_weight_in_this_rollout_alone() -> None:
    def cookies() -> dict[str, str]:
        """Arm → the value that its cookie must have, and as the gateway sets it."""
        rules = here.server.objects[NAMES.route]["spec"]["rules"]
        asked = {
            rule["backendRefs"][0]["name"]: rule["matches"][0]["headers"][0]["value"]
            for rule in rules
            if "cookie" in str(rule["matches"]).lower()
        }
        for ref in rules[-1]["backendRefs"]:
            value = ref["filters"][0]["responseHeaderModifier"]["add"][0]["value"].partition(";")[0]
            assert ref["name"] not in asked or re.search(asked[ref["name"]], value)
        return {name.removeprefix(f"{NAMES.name}-"): value for name, value in asked.items()}

    with cluster(changed(rollout_values(), {"traffic.cookie.enabled": True, "traffic.cookie.set": True})) as here:
        router = GatewayRouter(api_of(here.server), NAMES)
        assert router.keeps_users()
        router.write(Weights(34, 33, 33))
        first = cookies()
        assert set(first) == {"stable", "baseline", "canary"}
        router.write(Weights(80, 0, 20))
        assert cookies() == {arm: first[arm] for arm in ("stable", "canary")}
        GatewayRouter(api_of(here.server), NAMES).write(Weights(34, 33, 33))
        assert cookies() == first
        router.write(Weights())
        assert set(cookies()) == {"stable"}
        router.rest()
        router.write(Weights(34, 33, 33))
        assert not set(cookies().values()) & set(first.values())


@pytest.mark.parametrize("arm", ["stable", "canary"])
def test_a_release_with_values_of_its_own_is_refused_and_not_run_without_them(here: Cluster, arm: Arm) -> None:
    fleet = DeploymentFleet(api_of(here.server), NAMES)
    release = replace(fleet.releases()[0], values={"env": {"PILOTAGE_THREADS": "2"}})
    with pytest.raises(Refused, match=r"has values of its own \(env\)"):
        fleet.ensure(arm, release, None)
    assert not [each for each in here.server.requests if each[0] == "PATCH"]


def test_a_canary_with_other_resources_cannot_be_promoted_in_the_cluster(here: Cluster) -> None:
    data = here.server.objects[NAMES.config_map(NAMES.rollout)]["data"]
    data["canary.json"] = data["canary.json"].replace('"memory":"2Gi"', '"memory":"3Gi"')
    with pytest.raises(Refused, match="differ from stable's in more than image and bundles"):
        DeploymentFleet(api_of(here.server), NAMES).releases()


def test_killed_after_any_write_to_an_arm_or_the_route_the_next_engine_brings_it_to_its_right_end() -> None:
    for slow, image in ((1.0, NEW), (2.0, OLD)):
        with cluster() as whole:
            roll_out_in(whole.server, SHORT, slow=slow)
            points = sum(is_action(*request) for request in whole.server.requests)
        assert points >= 6
        for point in range(1, points + 1):
            with cluster() as here:
                kill_at(here, point, SHORT, slow=slow)
                record = roll_out_in(here.server, SHORT, slow=slow, name="next")
                assert record.outcome == ("promoted" if slow == 1.0 else "rolled_back"), f"killed at {point}"
                _is_settled(here, image)
