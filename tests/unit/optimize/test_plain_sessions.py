"""Profiles of ONNX Runtime, added up."""

from __future__ import annotations

from optimize.search.plain_sessions import kernel_times


def test_operators_times_are_added_up_without_the_first_runs() -> None:
    def event(name: str, kind: str, microseconds: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": kind}}

    runs = [event("a", "MatMul", 900), event("b", "Add", 900), event("a", "MatMul", 30), event("b", "Add", 10), event("c", "Add", 5)]
    assert kernel_times([*runs, {"cat": "Session", "name": "model_run", "dur": 9}], skip=1) == {"MatMul": 30, "Add": 10}
    assert kernel_times([], skip=1) == {}
