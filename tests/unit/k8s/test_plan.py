"""Plans: those that ship are valid, and mistakes are named."""

from __future__ import annotations

import pytest

from k8s.rollout.arms import Weights
from k8s.rollout.plan import Plan, load_plan, parse_plan, plan_names
from serving.contract.errors import SettingsError

LEAST = 'name = "x"\n[synthetic]\n[[step]]\nweight_pct = 5\n'


@pytest.mark.parametrize("name", plan_names())
def test_every_plan_that_ships_is_valid_and_survives_json(name: str) -> None:
    plan = load_plan(name)
    assert plan.name == name
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    for step in range(len(plan.steps)):
        assert plan.weights_of(step).canary == plan.steps[step].weight_pct


def test_only_the_shadow_plan_copies_requests_which_not_every_gateway_can() -> None:
    plans = [load_plan(name) for name in plan_names()]
    assert {plan.name for plan in plans if plan.warm_up.mirror_pct or any(step.mirror_pct for step in plan.steps)} == {"shadow"}


def test_the_baseline_gets_as_much_as_the_canary_while_stable_keeps_no_less_than_either() -> None:
    plan = load_plan("canary")
    weights = [plan.weights_of(step) for step in range(len(plan.steps))]
    assert weights[1:] == [Weights(98, 1, 1), Weights(90, 5, 5), Weights(60, 20, 20), Weights(50, 0, 50)]


def test_replicas_hold_until_a_later_step_changes_them() -> None:
    plan = load_plan("canary")
    assert [plan.replicas_of(step) for step in range(len(plan.steps))] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST + "weigth_pct = 3\n", "step.0.weigth_pct: Extra inputs"),
        (LEAST.replace("[synthetic]\n", ""), "nothing is looked at"),
        (LEAST + "[[step]]\nweight_pct = 5\n", "two steps are called 5 %"),
        (LEAST + "[[step]]\nweight_pct = 4\n", "weights only rise"),
        (LEAST.replace("5", "101"), "less than or equal to 100"),
        (LEAST + "bake_s = 2000\n", "below timeout_s"),
        (LEAST.replace("[synthetic]", "[live]").replace("5", "0"), "no live traffic"),
        (LEAST + "[live.objectives.not_slower]\n", "cannot be judged by counts"),
        (LEAST + "[objectives.p99]\n", "unknown tables p99"),
        (LEAST + "[objectives.error_increase]\nmax_points = -1\n", "max_points is -1"),
        (LEAST + "mirror_pct = 5\n[answers]\nmirror_pct = 5\n", "a route has one mirror"),
        (LEAST + "[answers]\nmirror_pct = 5\n[warm_up]\nmirror_pct = 5\n", "a route has one mirror"),
        (LEAST + "[answers]\nmirror_pct = 101\n", "answers.mirror_pct: Input should be less than or equal to 100"),
        ("name = ", "no TOML"),
        ('name = "x"\n[synthetic]\n', "step: Field required"),
        ('name = "x"\n[live]\n[[step]]\nweight_pct = 5\n', "warm_up.requests is 300, and nobody sends them"),
    ],
)
def test_a_plan_with_a_mistake_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_plan(text, "plan.toml")


def test_an_unknown_plan_names_those_that_ship() -> None:
    with pytest.raises(SettingsError, match="plans that ship: ab, abn, blue-green, canary"):
        load_plan("cannary")


def test_attempts_at_all_steps_together_never_risk_more_false_alarms_than_the_plan_allows() -> None:
    plan = load_plan("canary")
    risk = sum(plan.judge("synthetic", attempt).verdict().false_alarm for attempt in range(1, 40)) * len(plan.steps)
    assert 0.9 * 0.01 < risk <= 0.01


@pytest.mark.parametrize("weights", [(50, 50, 50), (101, 0, -1), (0, 0, 0)])
def test_weights_that_do_not_sum_up_are_impossible(weights: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must sum up to 100"):
        Weights(*weights)


def test_live_requests_are_compared_with_stable_where_the_baseline_has_none_and_not_at_all_where_the_canary_has_none() -> None:
    asked = parse_plan(
        'name = "x"\n[synthetic]\n[live]\n[[step]]\nweight_pct = 0\n[[step]]\nweight_pct = 10\n[[step]]\nweight_pct = 50\n', "plan.toml"
    )
    beside = [{source: arms[-1] for source, arms in asked.compared(asked.weights_of(step), ("canary",)).items()} for step in range(3)]
    assert beside == [
        {"synthetic": "baseline"},
        {"synthetic": "baseline", "live": "baseline"},
        {"synthetic": "baseline", "live": "stable"},
    ]


def test_a_step_without_a_user_of_the_old_version_takes_limits_alone() -> None:
    text = 'name = "x"\n[synthetic]\n[live]\n{}[[step]]\nweight_pct = {}\n'
    limits = "[live.objectives.error_limit]\nmax_error_pct = 1.0\n"
    with pytest.raises(SettingsError, match="step 100 % leaves no user with the old version"):
        parse_plan(text.format("", 100), "plan.toml").require_room(1)
    with pytest.raises(SettingsError, match="step 50 % leaves no user with the old version"):
        parse_plan(text.format("", 50), "plan.toml").require_room(2)
    parse_plan(text.format("", 50), "plan.toml").require_room(1)
    parse_plan(text.format(limits, 100), "plan.toml").require_room(1)


def test_copies_go_to_the_engine_or_to_the_canary_or_to_nobody() -> None:
    def copies(text: str) -> tuple[int, str]:
        plan = parse_plan(LEAST + text, "plan.toml")
        return plan.copies(plan.steps[0])

    assert copies("[answers]\nmirror_pct = 7\n") == (7, "engine")
    assert copies("mirror_pct = 7\n[answers]\n") == (7, "canary")
    assert copies("") == (0, "canary")


def test_several_releases_may_be_compared_on_copies_which_go_to_none_of_them() -> None:
    parse_plan(LEAST + "[answers]\nmirror_pct = 7\n", "plan.toml").require_room(3)
