"""The table of values in the chart's README, made of the comments in values.yaml: ``python -m tests.charts.values_table`` writes it anew.

A comment that begins with ``# --`` documents the key below it, with all that the key holds.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from tests.charts.rendering import CHART

VALUES, README = CHART / "values.yaml", CHART / "README.md"
BEGIN, END = "<!-- values: written by `python -m tests.charts.values_table` -->", "<!-- end of values -->"
KEY = re.compile(r"( *)([A-Za-z][A-Za-z0-9]*):(?: |$)")
LONGEST = 60
"""Characters of a default that still fit beside its meaning; longer ones are left to values.yaml."""


@dataclass(frozen=True)
class Row:
    path: str
    default: Any
    meaning: str


def rows(text: str) -> list[Row]:
    """The documented keys of a values.yaml, in its order."""
    found: list[Row] = []
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    values = yaml.safe_load(text)
    for line in text.splitlines():
        stripped = line.strip()
        key = KEY.match(line)
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and comment:
            comment.append(stripped.removeprefix("# "))
        elif key:
            indent = len(key[1])
            parents = [*(parent for parent in parents if parent[0] < indent), (indent, key[2])]
            if comment:
                path = [name for _, name in parents]
                found.append(Row(".".join(path), _at(values, path), " ".join(comment)))
            comment = []
        elif not stripped or not stripped.startswith("#"):
            comment = []
    return found


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def table(text: str) -> str:
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for row in rows(text):
        default = json.dumps(row.default, ensure_ascii=False)
        shown = f"`{default}`" if len(default) <= LONGEST else "see values.yaml"
        lines.append(f"| `{row.path}` | {shown} | {row.meaning.replace('|', '∣')} |")
    return "\n".join(lines)


def renewed(readme: str, values: str) -> str:
    """The README with its table as `values` asks."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(values)}\n{END}{tail}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(), VALUES.read_text()))
