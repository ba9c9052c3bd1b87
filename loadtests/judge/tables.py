"""Objectives and policy as tables: what a TOML file of objectives, a load profile or a rollout's plan holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from loadtests.judge.errors import JudgeError
from loadtests.judge.objectives import (
    ErrorIncrease,
    ErrorLimit,
    GoodputLimit,
    NotSlower,
    Objective,
    Policy,
    QuantileLimit,
    QuantileRatio,
    RefusalIncrease,
)

KINDS: dict[str, type[Objective]] = {
    "not_slower": NotSlower,
    "quantile_ratio": QuantileRatio,
    "error_increase": ErrorIncrease,
    "refusal_increase": RefusalIncrease,
    "quantile_limit": QuantileLimit,
    "error_limit": ErrorLimit,
    "goodput_limit": GoodputLimit,
}
"""Table → class. A table may be one, or a list of them."""

POLICY = "policy"

Made = TypeVar("Made")


def objectives_of(document: Mapping[str, Any]) -> tuple[tuple[Objective, ...], Policy]:
    """Make the objectives (maybe none) and the policy of these tables; what they leave out has its default.

    Raises
    ------
    JudgeError
        A table is unknown, or a setting is unknown or out of bounds.
    """
    unknown = document.keys() - KINDS.keys() - {POLICY}
    if unknown:
        raise JudgeError(f"unknown tables {', '.join(sorted(unknown))}; there are {POLICY}, {', '.join(KINDS)}")
    asked: list[Objective] = []
    for name, kind in KINDS.items():
        tables: Any = document.get(name, [])
        asked += [_made(name, kind, table) for table in (tables if isinstance(tables, list) else [tables])]
    return tuple(asked), _made(POLICY, Policy, document.get(POLICY, {}))


def _made(name: str, kind: type[Made], table: Any) -> Made:
    try:
        return kind(**table)
    except (TypeError, JudgeError) as error:
        raise JudgeError(f"table {name}: {error}") from error
