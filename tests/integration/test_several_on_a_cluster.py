"""Several releases at the same time on a cluster: the chart's example, the adapters and the engine against a stand-in for the API server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from k8s.errors import Refused
from k8s.rollout.arms import ARMS, CANARIES, Arm, Weights
from k8s.rollout.record import Record
from k8s.routing.gateway import GatewayRouter
from tests.charts.rendering import CHART, changed, render
from tests.clusters import NAMES, Cluster, api_of, cluster, is_action, kill_at, roll_out_in
from tests.rollouts import LATENCY_ALONE, plan

EXAMPLE: dict[str, Any] = yaml.safe_load((CHART / "ci" / "variants-values.yaml").read_text())
TRIED = CANARIES[:3]
TIMES = {"proven_s": 0, "poll_s": 1, "ready_s": 20, "api_s": 20}
ASKED = plan(warm_up={"requests": 300}, step=[{"weight_pct": 10, "samples": 1000}, {"weight_pct": 20, "samples": 1000}], times=TIMES)
QUICK = plan(warm_up={"requests": 300}, step=[{"weight_pct": 10, "samples": 1000}], times=TIMES, objectives=LATENCY_ALONE)


@pytest.fixture
def here() -> Iterator[Cluster]:
    with cluster(EXAMPLE) as installation:
        yield installation


def _bundle(here: Cluster, arm: Arm) -> str:
    """Address of what an arm downloads."""
    (init,) = here.server.objects[NAMES.deployment(arm)]["spec"]["template"]["spec"]["initContainers"]
    return next(word for word in init["args"] if word.startswith("s3:"))


def _is_settled(here: Cluster, bundle: str) -> None:
    assert _bundle(here, "stable") == f"s3://models/ranker/{bundle}?region=eu-central-1"
    assert NAMES.route not in here.server.objects
    assert [arm for arm in ARMS if NAMES.deployment(arm) in here.server.objects] == ["stable"]


def _shares(here: Cluster) -> Weights:
    """Weights of the route, without a request: the stand-in answers none while it calls back."""
    refs = here.server.objects[NAMES.route]["spec"]["rules"][-1]["backendRefs"]
    weights = {ref["name"]: ref["weight"] for ref in refs}
    return Weights.shared({arm: weights.get(NAMES.arm(arm), 0) for arm in ARMS})


def _by_cookie(here: Cluster) -> set[str]:
    """Arms that a cookie chooses now."""
    rules = here.server.objects[NAMES.route]["spec"]["rules"]
    chosen = [rule for rule in rules if "cookie" in str(rule["matches"]).lower()]
    return {rule["backendRefs"][0]["name"].removeprefix(f"{NAMES.name}-") for rule in chosen}


def test_the_bad_one_is_dropped_and_the_next_promoted_with_what_it_is(here: Cluster) -> None:
    weights, cookies, ran = list[Weights](), list[set[str]](), dict[str, str]()

    def note(method: str, path: str) -> None:
        if path == NAMES.route and method == "PATCH":
            weights.append(_shares(here))
            cookies.append(_by_cookie(here))
        ran.update({arm: _bundle(here, arm) for arm in ARMS if NAMES.deployment(arm) in here.server.objects and arm not in ran})

    here.server.after = note
    record = roll_out_in(here.server, ASKED, slow=2.0)  # `canary` alone is slow
    assert (record.outcome, record.conclusion, record.chosen) == ("promoted", "pass", "canary-2")
    assert [(each.arm, each.conclusion) for each in record.dropped] == [("canary", "fail")]
    assert [bundle.partition("?")[0].rpartition("/")[2] for bundle in (ran[arm] for arm in ARMS[:5])] == ["7", "7", "8", "8-wide", "7"]
    assert {Weights(60, 10, 10, (10, 10)), Weights(70, 10, 0, (10, 10)), Weights(40, 20, 0, (20, 20))} <= set(weights)
    assert cookies[weights.index(Weights(60, 10, 10, (10, 10)))] == {"stable", "baseline", *TRIED}
    assert cookies[weights.index(Weights(70, 10, 0, (10, 10)))] == {"stable", "baseline", "canary-2", "canary-3"}
    _is_settled(here, "8-wide")


def test_one_of_another_image_is_promoted_by_its_image(here: Cluster) -> None:
    old = here.image("stable")

    def lose(method: str, path: str) -> None:
        here.broken = {NAMES.arm("canary-2")}  # its image cannot be pulled

    here.server.after = lose
    record = roll_out_in(here.server, ASKED, slow=2.0)
    assert (record.outcome, record.chosen) == ("promoted", "canary-3")
    assert [(each.arm, "ImagePullBackOff" in each.why) for each in record.dropped] == [("canary-2", True), ("canary", False)]
    assert (here.image("stable"), here.image("stable") == old) == (f"registry.example/pilotage@sha256:{'6' * 64}", False)
    _is_settled(here, "7")


def test_all_arms_of_the_longest_row_get_their_weight_and_go() -> None:
    more = [{"image": {"digest": f"sha256:{digit * 64}"}} for digit in "78"]
    with cluster(changed(EXAMPLE, {"rollout.variants": [*EXAMPLE["rollout"]["variants"], *more]})) as here:
        seen: list[Weights] = []
        here.server.after = lambda method, path: seen.append(_shares(here)) if (method, path) == ("PATCH", NAMES.route) else None
        record = roll_out_in(here.server, plan(warm_up={"requests": 300}, step=[{"weight_pct": 14, "samples": 1000}], times=TIMES))
        assert (record.outcome, record.chosen, len(record.releases)) == ("promoted", "canary", 5)
        assert Weights(16, 14, 14, (14, 14, 14, 14)) in seen
        _is_settled(here, "8")


def test_weight_for_an_arm_that_is_not_prepared_is_refused_with_what_to_set(here: Cluster) -> None:
    said = r"the chart has prepared stable, baseline, canary, canary-2, canary-3 alone; further canaries are rollout\.variants"
    with pytest.raises(Refused, match=said):
        GatewayRouter(api_of(here.server), NAMES).write(Weights(60, 0, 0, (0, 0, 40)))


def _without_variants(here: Cluster) -> None:
    """What `helm upgrade` with `rollout.variants=[]` does: the ConfigMap is another one, and the Services are deleted."""
    made = render(changed(EXAMPLE, {"rollout.variants": []})).named("ConfigMap", NAMES.rollout)
    here.server.put(NAMES.config_map(NAMES.rollout), copy.deepcopy(made))
    here.missing = {NAMES.arm(arm) for arm in CANARIES[1:]}


class Upgraded(Cluster):
    """A cluster whose Services may go; the slices go with them."""

    missing: set[str]

    def _control(self) -> None:
        super()._control()
        for name in getattr(self, "missing", set()):
            self.server.objects.pop(f"{NAMES.endpoint_slices}/{name}-x", None)


@pytest.fixture
def upgraded() -> Iterator[Upgraded]:
    from tests.api_server import api_server

    with api_server() as server:
        yield Upgraded(server, EXAMPLE)


def _upgrade_at(here: Cluster, point: Any) -> None:
    begun: list[bool] = []

    def upgrade(method: str, path: str) -> None:
        if not begun and point(method, path):
            begun.append(True)
            _without_variants(here)
            here.control()

    here.server.after = upgrade


def test_an_upgrade_that_takes_variants_away_before_they_run_is_refused_with_what_to_set(upgraded: Upgraded) -> None:
    _upgrade_at(upgraded, lambda method, path: (method, path) == ("PATCH", NAMES.deployment("baseline")))
    record = roll_out_in(upgraded.server, ASKED)
    assert (record.outcome, record.conclusion) == ("rolled_back", "inconclusive")
    assert "ConfigMap ranker-pilotage-rollout has no canary-2.json: give canary-2 back in rollout.variants" in record.why
    _is_settled(upgraded, "7")


def test_an_upgrade_that_takes_variants_away_from_a_step_leaves_the_first_to_go_on_and_nothing_behind(upgraded: Upgraded) -> None:
    asked = plan(warm_up={"requests": 300}, step=[{"weight_pct": 10, "samples": 1000, "bake_s": 5}], times=TIMES)
    _upgrade_at(upgraded, lambda method, path: (method, path) == ("PATCH", NAMES.route) and _shares(upgraded).canary == 10)
    record: Record = roll_out_in(upgraded.server, asked)
    assert (record.outcome, record.chosen) == ("promoted", "canary")
    assert [each.arm for each in record.dropped] == ["canary-2", "canary-3"]
    assert all("endpoints are ready" in each.why for each in record.dropped)
    _is_settled(upgraded, "8")


def test_killed_after_any_write_the_next_engine_promotes_the_good_one_and_leaves_nothing() -> None:
    done: list[str] = []
    with cluster(EXAMPLE) as whole:
        whole.server.after = lambda method, path: done.append(path) if is_action(method, path) else None
        roll_out_in(whole.server, QUICK, slow=2.0)
    assert len(done) >= 12
    for point in range(1, len(done) + 1):
        with cluster(EXAMPLE) as here:
            kill_at(here, point, QUICK, slow=2.0)
            record = roll_out_in(here.server, QUICK, slow=2.0, name="next")
            assert (record.outcome, record.chosen) == ("promoted", "canary-2"), f"killed at {point}"
            _is_settled(here, "8-wide")
