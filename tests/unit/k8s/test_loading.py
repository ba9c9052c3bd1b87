"""What a load generator is asked for, wherever it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.local.traffic import LocustLoad
from k8s.rollout.loading import load_options
from k8s.rollout.plan import parse_plan
from k8s.rollout.plan_tables import MAX_WORKERS
from serving.contract.errors import SettingsError
from tests.rollouts import plan

PLAN = plan(synthetic={"rate_per_s": 50}, step=[{"weight_pct": 0, "timeout_s": 60}], inconclusive={"extend": 2})


def test_a_schedule_lasts_as_long_as_the_step_may_and_is_drawn_anew_each_time() -> None:
    options = [load_options(PLAN, PLAN.steps[0], ("canary", "stable"), "http://here", {"stable": "http://there"}) for _ in range(8)]
    assert {"--duration-s=180", "--arrivals=poisson:50", "--arm=canary=header:canary", "--arm=stable=http://there"} < set(options[0])
    assert len({word for each in options for word in each if word.startswith("--seed")}) > 1


def test_one_machine_sends_by_as_many_processes_as_are_asked_for() -> None:
    def command(processes: int) -> list[str]:
        return list(LocustLoad("http://here", PLAN, processes=processes)(PLAN.steps[0], ("canary", "stable"), Path("samples")))

    assert "--processes=3" in command(3)
    assert not [word for word in command(0) if word.startswith("--processes")]
    assert "--stream=samples" in command(0)


@pytest.mark.parametrize("workers", [-1, MAX_WORKERS + 1])
def test_a_number_of_workers_that_nobody_means_is_refused(workers: int) -> None:
    with pytest.raises(SettingsError, match=r"synthetic\.workers"):
        parse_plan(f'name = "x"\n[synthetic]\nworkers = {workers}\n[[step]]\nweight_pct = 0\n', "plan")
