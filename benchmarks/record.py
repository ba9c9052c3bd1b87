"""What a benchmark prints: one JSON object, or the same as a table."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from optimize.search.machine import describe_machine

DIGITS = 4
"""Significant digits of a printed value: medians of repeated runs differ in the third."""


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Attributes
    ----------
    rounds
        Interleaved rounds that it is a median over.
    """

    name: str
    value: float
    unit: str
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the JSON object."""
        return {"name": self.name, "value": rounded(self.value), "unit": self.unit, "rounds": self.rounds}


@dataclass(frozen=True)
class Aim:
    """A value and what it should be: at least `aim`, or at most where `at_most` says so."""

    name: str
    value: float
    unit: str
    aim: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the value reaches the aim; a value that is no number never does."""
        return self.value <= self.aim if self.at_most else self.value >= self.aim

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the JSON object."""
        return {"name": self.name, "value": rounded(self.value), "unit": self.unit, "aim": self.aim, "met": self.met}


@dataclass(frozen=True)
class Record:
    """All that one run of a benchmark found, and on what.

    Attributes
    ----------
    machine
        CPU model, the flags that decide which kernels run, cores, and threads of a run.
    versions
        Package → version.
    notes
        What was chosen or left out, and why; not in the object where there are none.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    figures: tuple[Figure, ...]
    aims: tuple[Aim, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        described: dict[str, Any] = {
            "machine": self.machine,
            "versions": self.versions,
            "figures": [figure.as_dict() for figure in self.figures],
            "aims": [aim.as_dict() for aim in self.aims],
        }
        return described | ({"notes": dict(self.notes)} if self.notes else {})

    def as_json(self) -> str:
        """The JSON object as text; a value that is no number is refused rather than printed as ``NaN``."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def print_tables(self, title: str, console: Console) -> None:
        """Print figures and aims for a person."""
        figures = Table(title=title)
        figures.add_column("figure")
        for heading in ("value", "unit", "rounds"):
            figures.add_column(heading, justify="left" if heading == "unit" else "right")
        for figure in self.figures:
            figures.add_row(figure.name, f"{figure.value:.{DIGITS}g}", figure.unit, str(figure.rounds))
        console.print(figures)
        if self.aims:
            console.print(self._aims_table())
        for name, note in self.notes.items():
            console.print(f"{name}: {note}", soft_wrap=True, markup=False, highlight=False)
        machine = self.machine
        console.print(
            f"{machine['cpu']} ({', '.join(machine['flags'])}), {machine['cores']} cores, threads of a run: {machine['threads']}",
            soft_wrap=True,
        )
        console.print(", ".join(f"{package} {number}" for package, number in self.versions.items()), soft_wrap=True)

    def _aims_table(self) -> Table:
        aims = Table(title="aims")
        for heading in ("aim", "wanted", "found", "met"):
            aims.add_column(heading)
        for aim in self.aims:
            bound = f"{'≤' if aim.at_most else '≥'} {aim.aim:g} {aim.unit}"
            aims.add_row(aim.name, bound, f"{aim.value:.{DIGITS}g} {aim.unit}", "yes" if aim.met else "no")
        return aims


def machine_of(threads: int) -> dict[str, Any]:
    """Describe this machine; `threads` are those of one run of a model."""
    described: dict[str, Any] = describe_machine(threads).model_dump(mode="json")
    return described


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the installed `packages`."""
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def rounded(value: float) -> float:
    """Cut to `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")
