"""Releases of a real CLIP bundle on this machine, judged by what they answer: real services, real pictures, real Envoy."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image

from k8s.local.laptop import Laptop
from k8s.local.processes import free_port
from k8s.rollout.arms import Release, Weights
from k8s.rollout.plan import Plan
from optimize.data.scenes.captions import draw_claim, label
from optimize.data.scenes.dataset import draw_training_scenes
from tests.laptop import PLAN, Made
from tests.upstreams import meanwhile

pytest.importorskip("envoy", reason="Envoy comes with pilotage[local]")

BUNDLE = Path(__file__).parents[2] / "models" / "clip-scenes"
REQUESTS, LABELS = 900, 4


def plan(**answers: Any) -> Plan:
    step = {"weight_pct": 0, "samples": 100_000, "timeout_s": 120}
    times = PLAN.times.model_copy(update={"ready_s": 120, "promote_s": 120})
    changes = {"answers": {"rate_per_s": 400, **answers}, "step": [step], "times": times}
    return Plan.model_validate(PLAN.model_dump(by_alias=True) | changes)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[bytes, list[str]]]:
    """Pictures (PNG), each with the label that it shows and some others."""
    drawn, rng = draw_training_scenes(REQUESTS, seed=5), random.Random(5)
    said = [label(draw_claim(scene, rng)) for scene in drawn.scenes]
    found = []
    for pixels, right in zip(drawn.pixels, said, strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        found.append((file.getvalue(), [right, *rng.sample(sorted({*said} - {right}), LABELS - 1)]))
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path_factory.mktemp("clip") / "rollout", free_port(), end_with_us=True)
    laptop.serve(Release("first", bundle={"path": str(BUNDLE)}))
    yield laptop
    laptop.close()


def changed(folder: Path, name: str, *, part: str, **settings: Any) -> Release:
    """The bundle with other settings in a part of its manifest."""
    shutil.copytree(BUNDLE, folder / name)
    path = folder / name / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["version"] = name
    manifest["clip"][part] |= settings
    path.write_text(json.dumps(manifest))
    return Release(name, bundle={"path": str(folder / name)})


@contextmanager
def users(port: int, scenes: list[tuple[bytes, list[str]]]) -> Iterator[Counter[int]]:
    """Classify pictures, one after the other and all of them again, until the block ends; counts by status."""
    statuses: Counter[int] = Counter()

    def ask(is_over: Callable[[], bool]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for picture, labels in cycle(scenes):
            if is_over():
                break
            query = urlencode([("label", each) for each in labels])
            connection.request("POST", f"/v1/classify?{query}", picture, {"content-type": "image/png"})
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
        connection.close()

    with meanwhile(ask):
        yield statuses


def test_one_that_answers_alike_is_promoted_on_recorded_pictures(
    here: Laptop, scenes: list[tuple[bytes, list[str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("good")
    lines = [json.dumps({"images": [base64.b64encode(picture).decode()], "labels": labels}) for picture, labels in scenes]
    (folder / "requests.jsonl").write_text("\n".join(lines))
    release = changed(folder, "calibrated", part="scoring", logit_scale=38.0)
    record = here.roll_out(plan(), release, requests_file=folder / "requests.jsonl", generator=Made(1.0))
    assert (record.outcome, here.fleet.stable_release().name) == ("promoted", "calibrated"), record.why
    (answers,) = (judged.verdict for judged in record.verdicts if judged.source == "answers")
    assert "100.0% of the images have the same best label" in answers["sentence"]


@pytest.mark.parametrize(
    ("settings", "environment", "why"),
    [({"context_length": 3}, {}, "the mean score is"), ({}, {"PILOTAGE_MAX_LABELS": "3"}, "were refused")],
    ids=["cuts labels off", "takes fewer labels"],
)
def test_one_that_answers_otherwise_is_stopped_by_what_users_send(
    here: Laptop, scenes: list[tuple[bytes, list[str]]], tmp_path: Path, settings: dict[str, Any], environment: dict[str, str], why: str
) -> None:
    before = here.fleet.stable_release().name
    release = replace(changed(tmp_path, "wrong", part="text", **settings), values={"env": environment})
    with users(int(here.host.rpartition(":")[2]), scenes) as statuses:
        record = here.roll_out(plan(mirror_pct=100), release, generator=Made(1.0))
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail"), record.why
    assert record.why.startswith("Other answers after")
    assert why in record.why
    assert (here.fleet.stable_release().name, here.router.read()) == (before, Weights())
    assert set(statuses) == {200}
