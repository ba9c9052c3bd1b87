"""Several releases at the same time on a real controller of Gateway API (Traefik): as many arms as there may be, and a whole rollout of three."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import binom

from k8s.rollout.arms import ARMS, CANARIES, Arm, Weights
from k8s.rollout.clock import SystemClock
from tests.charts.rendering import CHART, changed
from tests.clusters import NAMES, roll_out_in
from tests.gateways import ROUTED, ask, put, real_gateway, until_true
from tests.rollouts import plan
from tests.upstreams import Caller, asking

EXAMPLE: dict[str, Any] = yaml.safe_load((CHART / "ci" / "variants-values.yaml").read_text())
FOUR = changed(
    EXAMPLE, {"rollout.variants": [*EXAMPLE["rollout"]["variants"], *({"image": {"digest": f"sha256:{digit * 64}"}} for digit in "78")]}
)
REQUESTS = 2000
PAUSE_S = 0.003


def test_seven_arms_are_told_apart_by_weight_header_and_cookie(tmp_path: Path) -> None:
    with real_gateway(tmp_path, FOUR, "--providers.providersThrottleDuration=50ms", arms=ARMS) as ground, ExitStack() as stack:
        ground.raise_arms()
        caller = Caller(ground.port)
        stack.callback(caller.close)
        weights = Weights(20, 10, 20, (10, 10, 10, 20))
        put(ground, caller, weights)
        assert len(ground.server.objects[NAMES.route]["spec"]["rules"]) == 15
        counts = ask(caller, REQUESTS)
        for arm in ARMS:
            low, high = binom.interval(1 - 1e-6, REQUESTS, weights.of(arm) / 100)
            assert low <= counts[200, arm] <= high, counts
        assert all(ask(caller, 30, x_pilotage_arm=arm) == {(200, arm): 30} for arm in ARMS)
        cookies: dict[str, str] = {}
        while set(cookies) != set(ARMS):
            answer = caller.get(ROUTED)
            cookies[answer.body] = answer.headers["set-cookie"].partition(";")[0]
        assert all(ask(caller, 30, cookie=f"session=1; {cookie}; theme=dark") == {(200, arm): 30} for arm, cookie in cookies.items())
        # An arm that is dropped loses its users, and the others keep theirs.
        put(ground, caller, Weights(40, 10, 0, (10, 10, 10, 20)))
        until_true(lambda: (200, "canary") not in ask(caller, 50, cookie=cookies["canary"]), "users stay with an arm that was dropped")
        assert ask(caller, 30, cookie=cookies["canary-2"]) == {(200, "canary-2"): 30}


@pytest.mark.parametrize("cookie", [False, True], ids=["by weight", "by cookie"])
def test_users_lose_no_request_while_one_of_three_releases_is_dropped_and_the_next_promoted(tmp_path: Path, cookie: bool) -> None:
    """The whole engine; its pause, the gateway's and the pods' are a quarter of their defaults."""
    tried: tuple[Arm, ...] = CANARIES[:3]
    times: dict[str, Any] = {"poll_s": 0.5, "proven_s": 0.5, "ready_s": 30, "promote_s": 40, "api_s": 20}
    steps = [{"weight_pct": 10, "samples": 2000, "bake_s": 1.0}, {"weight_pct": 20, "samples": 2000, "bake_s": 1.0}]
    asked = plan(warm_up={"requests": 300}, step=steps, times=times)
    values = changed(EXAMPLE, {"traffic.cookie": {"enabled": cookie, "set": cookie}})
    arms: tuple[Arm, ...] = ("stable", "baseline", *tried)
    with (
        real_gateway(tmp_path, values, "--providers.providersThrottleDuration=500ms", arms=arms) as ground,
        ExitStack() as users,
    ):
        ground.drain_s = 1.25
        counts = [users.enter_context(asking(ground.port, ROUTED, PAUSE_S, visit)) for visit in (1, 50)]
        record = roll_out_in(ground.server, asked, slow=2.0, clock=SystemClock())  # `canary` alone is slow
        until_true(lambda: all(ground.arms[arm].gone for arm in arms[1:]), "the arms are not taken away")
        before = sum(counts[0].values())
        until_true(lambda: sum(counts[0].values()) > before + 100, "users wait")
    assert (record.outcome, record.chosen, NAMES.route in ground.server.objects) == ("promoted", "canary-2", False)
    assert [each.arm for each in record.dropped] == ["canary"]
    every = counts[0] + counts[1]
    assert {status for status, _ in every} == {200}, every
    assert {arm for _, arm in every} == set(arms), every
