"""What a PromQL expression names: series with their matchers, and the labels it groups by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import promql_parser

OPERATORS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}


@dataclass(frozen=True)
class Selector:
    """One selector of series; matchers are (label, operator, value)."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Grouping:
    """Labels that an aggregation keeps or drops, and the series below it."""

    labels: tuple[str, ...]
    names: tuple[str, ...]


def without_variables(expression: str) -> str:
    """A dashboard's expression with values in place of Grafana's variables."""
    return re.sub(r"\$\{?\w+\}?", ".*", expression.replace("$__rate_interval", "5m"))


def read(expression: str) -> tuple[list[Selector], list[Grouping]]:
    """The selectors and the groupings of an expression; a syntax error is raised as ``ValueError``."""
    selectors: list[Selector] = []
    groupings: list[Grouping] = []
    _walk(promql_parser.parse(expression), selectors, groupings)
    return selectors, groupings


def _walk(node: Any, selectors: list[Selector], groupings: list[Grouping]) -> None:
    match node:
        case promql_parser.VectorSelector():
            matchers = tuple((one.name, OPERATORS[str(one.op).removeprefix("MatchOp.")], one.value) for one in node.matchers.matchers)
            selectors.append(Selector(node.name, matchers))
        case promql_parser.MatrixSelector():
            _walk(node.vector_selector, selectors, groupings)
        case promql_parser.AggregateExpr():
            below: list[Selector] = []
            _walk(node.expr, below, groupings)
            selectors += below
            if node.modifier is not None:
                groupings.append(Grouping(tuple(node.modifier.labels), tuple(one.name for one in below)))
        case promql_parser.BinaryExpr():
            _walk(node.lhs, selectors, groupings)
            _walk(node.rhs, selectors, groupings)
        case promql_parser.Call():
            for argument in node.args:
                _walk(argument, selectors, groupings)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            _walk(node.expr, selectors, groupings)
