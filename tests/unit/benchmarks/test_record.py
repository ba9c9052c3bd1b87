from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from benchmarks.record import Aim, Figure, Record, machine_of, versions_of


def _record(value: float = 6.543219) -> Record:
    return Record(
        machine_of(1),
        versions_of(["numpy"]),
        (Figure("a_p50_ms", value, "ms", 12),),
        (Aim("speedup", 6.0, "x", 5.0), Aim("p99", 3.0, "ms", 2.0, True)),
    )


def test_record_is_one_json_object_of_the_agreed_shape() -> None:
    document = json.loads(_record().as_json())
    assert set(document) == {"machine", "versions", "figures", "aims"}
    assert set(document["machine"]) == {"cpu", "flags", "cores", "threads"}
    assert set(document["versions"]) == {"python", "numpy"}
    assert document["figures"] == [{"name": "a_p50_ms", "value": 6.543, "unit": "ms", "rounds": 12}]
    assert document["aims"] == [
        {"name": "speedup", "value": 6.0, "unit": "x", "aim": 5.0, "met": True},
        {"name": "p99", "value": 3.0, "unit": "ms", "aim": 2.0, "met": False},
    ]


@pytest.mark.parametrize(
    ("value", "at_most", "met"),
    [(5.0, False, True), (4.999, False, False), (5.0, True, True), (5.001, True, False), (math.nan, False, False)],
)
def test_aim_is_met_on_its_own_side_of_the_bound(value: float, at_most: bool, met: bool) -> None:
    assert Aim("x", value, "x", 5.0, at_most).met is met


def test_record_refuses_to_print_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _record(math.nan).as_json()


def test_tables_name_every_figure_and_aim() -> None:
    out = io.StringIO()
    _record().print_tables("title", Console(file=out, width=160))
    for word in ("a_p50_ms", "6.543", "speedup", "≥ 5 x", "≤ 2 ms", "yes", "no", "numpy"):
        assert word in out.getvalue()
