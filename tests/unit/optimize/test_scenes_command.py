from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from optimize.cli.scenes import CAPTIONS_NAME, app
from optimize.data.scenes.render import SIDE


def test_scenes_are_written_with_their_captions(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--out", str(tmp_path), "--count", "3", "--seed", "5", "--json"])
    assert done.exit_code == 0, done.output
    drawn = json.loads(done.stdout)["scenes"]
    assert drawn == [json.loads(line) for line in (tmp_path / CAPTIONS_NAME).read_text().splitlines()]
    for entry in drawn:
        with Image.open(entry["picture"]) as picture:
            assert (picture.size, picture.mode) == ((SIDE, SIDE), "RGB")
        assert entry["caption"].startswith(("a ", "an "))


def test_one_seed_draws_the_same_scenes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert CliRunner().invoke(app, ["--out", str(tmp_path / folder), "--count", "2"]).exit_code == 0
    for name in ("scene-00000.png", "scene-00001.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
