"""The page on rollouts says what plans and commands are."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel
from typer.main import get_command

from k8s.cli import app
from k8s.rollout.phases import Phase
from k8s.rollout.plan import Plan, parse_plan, plan_names
from k8s.rollout.plan_tables import Health, Inconclusive, Live, Step, Synthetic, Times, WarmUp

PAGE = (Path(__file__).parents[3] / "docs/rollouts.md").read_text()


def test_every_setting_of_a_plan_is_documented() -> None:
    models: tuple[type[BaseModel], ...] = (Plan, Step, WarmUp, Synthetic, Live, Inconclusive, Health, Times)
    for model in models:
        for name in model.model_fields.keys() - {"steps", "warm_up", "synthetic", "live", "inconclusive", "health", "times"}:
            if name == "name" and model is Step:
                continue  # as the plan's
            assert f"`{name}`" in PAGE, f"{model.__name__}.{name} is not documented"


def test_every_command_phase_and_plan_is_named() -> None:
    for name in (*get_command(app).commands, *(phase.value for phase in Phase if phase is not Phase.DONE), *plan_names()):  # type: ignore[attr-defined]
        assert name in PAGE, f"{name} is not on the page"


def test_the_example_of_the_page_is_a_valid_plan() -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example
    assert parse_plan(example[1], "docs/rollouts.md").weights_of(2).canary == 30
