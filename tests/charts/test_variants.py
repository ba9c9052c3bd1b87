"""Further canaries of a rollout, `rollout.variants`: each is prepared as the canary is, and reached by weight, header and cookie."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from k8s.rollout.arms import ARMS, CANARIES
from tests.charts.api_schemas import custom_complaints
from tests.charts.rendering import MINIMAL, Object, Values, changed, refusal, render
from tests.charts.test_rollout_objects import JOB, ROLLOUT, allowed, templates
from tests.charts.test_routes import NAME, weights

IMAGES = [f"sha256:{digit * 64}" for digit in "3456"]
VARIANTS = [{"image": {"digest": digest}} for digest in IMAGES]
CANARY: Values = {"canary.image": {"digest": f"sha256:{'2' * 64}"}}
FOUR: Values = {**ROLLOUT, **CANARY, "rollout.variants": VARIANTS}
COOKIE: Values = {"traffic.cookie.enabled": True, "traffic.cookie.set": True}
DOWNLOAD: Object = {"source": "download", "name": "a", "url": "https://models.example/a", "sha256": "e" * 64}


def test_a_variant_is_what_the_canary_would_be_with_its_release() -> None:
    shared: Values = {"canary.replicas": 2, "env": [{"name": "A", "value": "b"}]}
    carried = templates({**FOUR, **shared})
    assert {f"{arm}.json" for arm in CANARIES} <= carried.keys()
    for arm, digest in zip(CANARIES[1:], IMAGES, strict=True):
        alone = json.dumps(templates({**ROLLOUT, **shared, "canary.image": {"digest": digest}})["canary.json"])
        assert carried[f"{arm}.json"] == json.loads(
            alone.replace(f"{NAME}-canary", f"{NAME}-{arm}").replace('arm": "canary"', f'arm": "{arm}"')
        )


def test_each_has_a_service_of_its_own_while_nothing_runs_of_it() -> None:
    rendering = render(changed(MINIMAL, FOUR))
    selected = {each["metadata"]["name"]: each["spec"]["selector"].get("pilotage.dev/arm") for each in rendering.of_kind("Service")}
    assert selected == {NAME: "stable", **{f"{NAME}-{arm}": arm for arm in ARMS}}
    assert [each["metadata"]["name"] for each in rendering.of_kind("Deployment")] == [f"{NAME}-stable"]


def test_a_route_to_all_arms_by_header_and_cookie_keeps_the_limits_of_its_kind() -> None:
    rendering = render(changed(MINIMAL, {**FOUR, **COOKIE}))
    route = json.loads(rendering.named("ConfigMap", f"{NAME}-rollout")["data"]["route.json"])
    *chosen, last = route["spec"]["rules"]
    assert len(chosen) == 2 * len(ARMS)
    assert [set(weights(rule)) for rule in chosen] == [{arm} for arm in ARMS] * 2
    assert weights(last) == {"stable": 100} | dict.fromkeys(ARMS[1:], 0)
    one_more = {**route, "spec": {**route["spec"], "rules": [*chosen, *chosen[:2], last]}}
    fine, refused = custom_complaints([route, one_more])
    assert fine == []
    assert any("16 items" in found for found in refused)


@pytest.mark.parametrize("by_gateway", [True, False])
def test_no_cookie_of_one_arm_is_taken_for_that_of_another(by_gateway: bool) -> None:
    rules = templates({**FOUR, **COOKIE, "traffic.cookie.set": by_gateway})["route.json"]["spec"]["rules"]
    end = "_{rollout}" if by_gateway else ""
    patterns = {next(iter(weights(rule))): rule["matches"][0]["headers"][0]["value"] for rule in rules[len(ARMS) : 2 * len(ARMS)]}
    for arm in ARMS:
        asked = f"session=1; pilotage-arm={arm}{end}; theme=dark"
        assert [other for other, pattern in patterns.items() if re.search(pattern.replace("{", r"\{"), asked)] == [arm]


def test_a_rollout_may_remove_what_an_upgrade_in_the_midst_of_it_took_out_of_the_values() -> None:
    for changes in (ROLLOUT, FOUR):
        rules = render(changed(MINIMAL, changes)).one("Role")["rules"]
        assert all(allowed(rules, verb, "deployments", f"{NAME}-{arm}") for arm in CANARIES for verb in ("get", "patch", "delete"))
        assert not allowed(rules, "delete", "deployments", f"{NAME}-stable")
        assert not allowed(rules, "delete", "deployments", f"{NAME}-canary-6")


def test_another_variant_is_another_job_and_changes_nothing_that_runs() -> None:
    def name(more: Values) -> str:
        return str(render(changed(MINIMAL, {**JOB, **CANARY, **more})).one("Job")["metadata"]["name"])

    one, other, both = ({"rollout.variants": tried} for tried in (VARIANTS[:1], VARIANTS[1:2], VARIANTS[:2]))
    assert len({name(each) for each in ({}, one, other, both)}) == 4
    assert name({}) == name({"rollout.variants": []}) == name({"rollout.variants": None})  # as `--set rollout.variants=null` has it
    # What a variant does not say is stable's, while the canary has its own.
    inherited: Values = {**one, "canary.bundles": [{"source": "image", "path": "own"}]}
    assert name(inherited) != name({**inherited, "bundles": [{"source": "image", "path": "another"}]})
    before, after = (render(changed(MINIMAL, {**ROLLOUT, **CANARY, **more})) for more in (one, other))
    differing = [each["metadata"]["name"] for each, now in zip(before.objects, after.objects, strict=True) if each != now]
    assert differing == [f"{NAME}-rollout"]


def test_a_download_of_a_variant_alone_opens_the_way_to_the_store() -> None:
    policy = render(changed(MINIMAL, {**FOUR, "rollout.variants": [{"bundles": [DOWNLOAD]}]})).named("NetworkPolicy", NAME)
    assert "egress" in policy["spec"]


def test_names_of_all_arms_fit_where_the_release_has_the_longest_name() -> None:
    rendering = render(changed(MINIMAL, {**FOUR, "fullnameOverride": "a" * 45}))
    assert max(len(each["metadata"]["name"]) for each in rendering.everything) <= 63


def test_alerts_watch_the_deployments_of_all_arms() -> None:
    rules: Values = {"monitoring.rules.enabled": True, "monitoring.rules.kubeStateMetrics": True}
    text = json.dumps(render(changed(MINIMAL, {**FOUR, **rules})).one("PrometheusRule"))
    (pattern,) = set(re.findall(r'deployment=~\\"(.+?)\\"', text))
    assert all(re.fullmatch(pattern, f"{NAME}-{arm}") for arm in ARMS)
    assert not re.fullmatch(pattern, f"{NAME}-another")


def test_the_notes_tell_how_many_are_tried() -> None:
    assert "`canary` and the 4 of `rollout.variants` of the values" in render(changed(MINIMAL, FOUR)).notes
    assert "`canary` of the values" in render(changed(MINIMAL, ROLLOUT)).notes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rollout.enabled": False}, "rollout.variants needs rollout.enabled"),
        ({"rollout.variants": [*VARIANTS, {"image": {"digest": f"sha256:{'7' * 64}"}}]}, "at '/rollout/variants': maxItems: got 5, want 4"),
        ({"rollout.variants": [{"resources": {}}]}, "at '/rollout/variants/0': additional properties 'resources' not allowed"),
        ({"rollout.variants": [{}]}, "at '/rollout/variants/0': minProperties: got 0, want 1"),
        (
            {"rollout.variants": [VARIANTS[0], {"image": {"digest": f"sha256:{'2' * 64}"}}]},
            "rollout.variants[1] has the image and the bundles of canary: of two that are the same, leave one out",
        ),
        ({"rollout.variants": 2 * VARIANTS[:1]}, "rollout.variants[1] has the image and the bundles of rollout.variants[0]"),
        (
            {"rollout.variants": [{"bundles": [{**DOWNLOAD, "sha256": ""}]}]},
            "rollout.variants[0].bundles[0] comes from download and has no sha256",
        ),
    ],
    ids=str,
)
def test_variants_that_could_not_be_tried_are_refused_by_their_place(changes: dict[str, Any], told: str) -> None:
    assert told in refusal(changed(MINIMAL, {**FOUR, **changes}))


def test_one_with_the_bundles_of_another_and_its_own_image_is_a_release_of_its_own() -> None:
    tried = [{"bundles": [DOWNLOAD]}, {"bundles": [DOWNLOAD], "image": {"digest": IMAGES[0]}}]
    assert "canary-3.json" in templates({**FOUR, "rollout.variants": tried})
