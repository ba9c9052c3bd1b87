from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).parents[3] / "loadtests" / "judge"


def test_the_judge_imports_only_the_standard_library_numpy_and_scipy() -> None:
    allowed = {"numpy", "scipy", *sys.stdlib_module_names}
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.startswith("loadtests.judge") or name.partition(".")[0] in allowed, f"{path.name} imports {name}"


def test_importing_the_judge_loads_no_other_room() -> None:
    code = "import json, sys, loadtests.judge; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOM.parents[1], capture_output=True, text=True, check=True, timeout=120)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"serving", "pydantic", "locust", "gevent", "typer", "rich", "pandas"}
    assert {name for name in json.loads(done.stdout) if name.startswith("loadtests")} >= {"loadtests.judge.judge"}
