"""Live traffic as counts in buckets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from k8s.cluster.prometheus import Prometheus, PrometheusAccess
from k8s.errors import Refused, Unavailable
from k8s.rollout.plan_tables import Live, Step
from tests.charts.rendering import MINIMAL, changed, render
from tests.clusters import NAMES, Clock

STEP = Step(weight_pct=10)


class Canned:
    """Answers what the test says."""

    counts: dict[tuple[str, str, str], float]
    asked: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        self.asked = query
        return [
            {"metric": {"arm": arm, "status": status, "le": le}, "value": [0, str(count)]}
            for (arm, status, le), count in self.counts.items()
        ]


def _source(clock: Clock, **live: Any) -> tuple[Prometheus, Any]:
    answers: Any = Canned()
    source = Prometheus(answers, Live.model_validate({"every_s": 15, **live}), NAMES, clock)
    source.begin(STEP, ("canary", "baseline"))
    return source, answers


def _counts(ok_fast: int, ok_slow: int, failed: int) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], float] = {}
    for arm in ("canary", "baseline"):
        found |= {(arm, "200", "0.01"): ok_fast, (arm, "200", "0.05"): ok_fast + ok_slow, (arm, "200", "+Inf"): ok_fast + ok_slow}
        found |= {(arm, "500", "0.01"): failed, (arm, "500", "0.05"): failed, (arm, "500", "+Inf"): failed}
    return found


def test_what_was_counted_between_two_looks_becomes_requests_in_the_middle_of_their_buckets() -> None:
    clock = Clock()
    source, answers = _source(clock)
    answers.counts = _counts(100, 10, 1)
    assert source.look() == {}  # counted before the step
    clock.sleep(5)
    assert source.look() == {}  # too early
    clock.sleep(15)
    answers.counts = _counts(150, 13, 3)
    look = source.look()["canary"]
    canary = look.batch.canary
    assert sorted(canary.latency_ms[canary.ok].tolist()) == pytest.approx([5.0] * 50 + [30.0] * 3)
    assert (~canary.ok).sum() == 2
    assert np.all((canary.started_s >= clock.now_s() - 20) & (canary.started_s < clock.now_s()))
    assert 'arm=~"canary|baseline"' in answers.asked
    assert 'namespace="models",job="ranker-pilotage"' in answers.asked  # not the other installations of the namespace


def test_requests_that_were_refused_are_told_from_those_that_failed_and_those_that_were_answered() -> None:
    clock = Clock()
    source, answers = _source(clock)
    statuses = ("200", "304", "400", "422", "499", "500", "503", "")
    answers.counts = {(arm, status, "+Inf"): 0 for arm in ("canary", "baseline") for status in statuses}
    source.look()
    clock.sleep(20)
    answers.counts = {(arm, status, "+Inf"): 10**number for number, status in enumerate(statuses[:5]) for arm in ("canary", "baseline")}
    answers.counts |= {("canary", "500", "+Inf"): 2, ("canary", "503", "+Inf"): 3, ("canary", "", "+Inf"): 7}
    look = source.look()["canary"]
    canary, baseline = look.batch.canary, look.batch.baseline
    assert canary.refused is not None
    assert baseline.refused is not None
    assert (canary.refused.sum(), baseline.refused.sum()) == (11_100, 11_100)
    assert (len(canary), (~canary.ok).sum(), (canary.refused & ~canary.ok).sum()) == (11_111 + 12, 5, 0)


def test_a_look_at_an_arm_without_a_request_says_of_none_that_it_was_refused() -> None:
    clock = Clock()
    source, answers = _source(clock)
    answers.counts = {("baseline", "200", "+Inf"): 0}
    source.look()
    clock.sleep(20)
    answers.counts = {("baseline", "200", "+Inf"): 40}
    look = source.look()["canary"]
    columns = [(len(arm), arm.refused is not None and arm.refused.dtype == bool) for arm in (look.batch.canary, look.batch.baseline)]
    assert columns == [(0, True), (40, True)]


def test_counts_that_shrink_are_not_taken_for_requests() -> None:
    clock = Clock()
    source, answers = _source(clock)
    answers.counts = _counts(100, 10, 1)
    source.look()
    clock.sleep(20)
    answers.counts = _counts(20, 0, 0)
    assert source.look() == {}
    clock.sleep(20)
    answers.counts = _counts(60, 0, 0)
    look = source.look()["canary"]
    assert len(look.batch.canary) == 40


def test_each_of_several_canaries_is_seen_beside_the_same_baseline_also_where_another_lost_a_pod() -> None:
    def counts(**arms: int) -> dict[tuple[str, str, str], float]:
        return {(arm.replace("_", "-"), "200", edge): count for arm, count in arms.items() for edge in ("0.01", "+Inf")}

    clock = Clock()
    source, answers = _source(clock)
    source.begin(STEP, ("canary", "canary-2", "baseline"))
    seen = []
    for each in ({"canary": 100, "canary_2": 50, "baseline": 70}, {"canary": 110, "canary_2": 70, "baseline": 100},
                 {"canary": 120, "canary_2": 20, "baseline": 110}, {"canary": 130, "canary_2": 60, "baseline": 40}):  # fmt: skip
        answers.counts = counts(**each)
        seen.append({arm: (len(look.batch.canary), len(look.batch.baseline)) for arm, look in source.look().items()})
        clock.sleep(20)
    assert seen == [{}, {"canary": (10, 30), "canary-2": (20, 30)}, {"canary": (10, 10)}, {}]
    assert 'arm=~"canary|canary-2|baseline"' in answers.asked  # PromQL takes it for the whole label


def test_a_limit_between_two_edges_is_refused_with_the_edges() -> None:
    source, answers = _source(Clock(), objectives={"quantile_limit": [{"quantile": 0.99, "limit_ms": 30.0}]})
    answers.counts = _counts(1, 1, 1)
    with pytest.raises(Refused, match="limit_ms 30 is no edge of the histogram: nothing is known of it; edges are 10, 50"):
        source.look()


def test_labels_of_the_plan_go_before_those_of_the_chart() -> None:
    source, answers = _source(Clock(), labels={"job": "ours", "cluster": "west"}, arm_label="version")
    answers.counts = {}
    source.look()
    assert answers.asked.endswith('{namespace="models",job="ours",cluster="west",version=~"canary|baseline"})')


def test_a_selection_that_finds_nothing_is_said_with_what_was_looked_for() -> None:
    clock = Clock()
    source, answers = _source(clock)
    answers.counts = {}
    assert source.look() == {}  # nobody may have been scraped yet
    clock.sleep(20)
    with pytest.raises(Unavailable, match=r'has no series pilotage_request_seconds_bucket\{namespace="models",job="ranker-pilotage"'):
        source.look()
    clock.sleep(20)
    answers.counts = _counts(100, 0, 0)
    assert len(source.look()["canary"].batch.canary) == 100


def test_the_job_that_is_selected_is_the_one_that_the_chart_gives() -> None:
    chart = render(changed(MINIMAL, {"monitoring.podMonitor.enabled": True, "networkPolicy.enabled": False}))
    relabelings = chart.one("PodMonitor")["spec"]["podMetricsEndpoints"][0]["relabelings"]
    source, answers = _source(Clock())
    answers.counts = {}
    source.look()
    assert {each["targetLabel"]: each.get("replacement") for each in relabelings} == {"job": NAMES.name, "arm": None}
    assert f'job="{NAMES.name}"' in answers.asked
    assert chart.one("PodMonitor")["metadata"]["namespace"] == NAMES.namespace


def test_a_prometheus_that_is_not_there_is_unavailable() -> None:
    source = Prometheus(PrometheusAccess("http://127.0.0.1:9"), Live(), NAMES, Clock())
    source.begin(STEP, ("canary", "stable"))
    with pytest.raises(Unavailable, match="does not answer"):
        source.look()


def test_the_live_plan_asks_about_refusals_and_its_limits_are_edges_of_the_services_histogram() -> None:
    from k8s.rollout.plan import load_plan
    from serving.monitoring.metrics import BUCKETS_S

    live = load_plan("live").live
    assert live is not None
    assert live.objectives.keys() == {"error_increase", "refusal_increase", "quantile_limit"}
    assert all(table["limit_ms"] / 1000 in BUCKETS_S for table in live.objectives["quantile_limit"])


def test_what_is_asked_of_live_traffic_by_default_is_a_promise() -> None:
    assert Live().objectives == {"error_increase": {}, "refusal_increase": {}}
