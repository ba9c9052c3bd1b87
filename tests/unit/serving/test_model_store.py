"""Bundles go into BentoML's model store and come out of it whole; in a child process, since BentoML reads its home once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from serving.contract.bundle import Bundle, open_bundle, sha256_of
from serving.services.store import locate

SCRIPT = """
import json, sys
from pathlib import Path
from serving.contract.errors import PilotageError
from serving.services.store import import_bundle, locate
answers = []
for verb, argument in json.loads(sys.argv[1]):
    try:
        answers.append(str(import_bundle(Path(argument)) if verb == "import" else locate(argument)))
    except PilotageError as error:
        answers.append(f"refused: {error}")
    except Exception as error:
        answers.append(f"crashed: {error!r}")
print(json.dumps(answers))
"""


def _in_store(home: Path, *steps: tuple[str, str | Path]) -> list[str]:
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-c", SCRIPT, json.dumps([[verb, str(argument)] for verb, argument in steps])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_a_plain_path_is_left_as_it_is() -> None:
    assert locate("some/folder") == Path("some/folder")


def test_a_bundle_comes_out_of_the_store_as_it_went_in(tiny_bundle: Bundle, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(tiny_bundle.path, tmp_path / "damaged"))
    (damaged / "extra").write_text("x")
    tag, by_version, latest, again, broken, missing, malformed = _in_store(
        tmp_path / "home",
        ("import", tiny_bundle.path),
        ("locate", "bentoml:tiny:1"),
        ("locate", "bentoml:tiny"),
        ("import", tiny_bundle.path),
        ("import", damaged),
        ("locate", "bentoml:tiny:2"),
        ("locate", "bentoml:a:b:c"),
    )
    assert tag == "tiny:1"
    assert by_version == latest
    assert Path(by_version).is_relative_to(tmp_path / "home")
    stored = open_bundle(Path(by_version))
    assert stored.manifest == tiny_bundle.manifest
    assert sha256_of(stored.graph_path) == sha256_of(tiny_bundle.graph_path)
    assert again.startswith("refused: BentoML's model store did not take tiny:1")
    assert "'extra'" in broken
    assert missing.startswith("refused: BentoML's model store has no 'tiny:2'")
    assert "pilotage bundle import" in missing
    assert malformed.startswith("refused: ")


def test_a_malformed_tag_is_refused(tmp_path: Path) -> None:
    answers = _in_store(tmp_path / "home", ("locate", "bentoml:"), ("locate", "bentoml:No Such Tag"))
    assert all(answer.startswith("refused: ") for answer in answers)
