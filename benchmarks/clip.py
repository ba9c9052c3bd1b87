"""CLIP zero-shot: this service, transformers' pipeline, open_clip, and the bare image tower, which is the limit.

Run as ``python -m benchmarks.clip [--quick] [--json]``. One worker on one core; what runs in this process has the same core while the
service idles. ViT-B/32 with seeded weights, a JPEG of 1024×768 with the noise of a phone in daylight, one picture a request.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.command import Tell, report
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of

if TYPE_CHECKING:
    from benchmarks.clip_subject import ClipSubject
    from serving.contract.bundle import ClipBundle

PACKAGES = ("bentoml", "numpy", "onnxruntime", "pillow", "tokenizers", "torch", "transformers")
LABELS, FEW_LABELS, QUICK_LABELS = 1000, 100, 100
QUICK_LAYERS = 2
WIDTH, HEIGHT, NOISE, JPEG_QUALITY = 1024, 768, 8.0, 90
CONNECTIONS = 4
MAX_OVER_TOWER, MIN_OVER_PIPELINE, MAX_PREPROCESSING = 1.2, 50.0, 0.25
TEXT_BUDGET_S = 600.0
OBJECTIVE_MS = 60_000.0
"""Nothing is to be refused here."""

OURS, PLAIN = "optimized", "fp32"
ANSWER_TIMEOUT_S = 300.0


class Asking:
    """One keep-alive connection that sends the picture."""

    def __init__(self, port: int, file: bytes) -> None:
        from benchmarks.services import HOST

        self._connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_TIMEOUT_S)
        self._file = file

    def classify(self, label_set: str) -> None:
        """Ask by a label set; raises `ServiceFailed` unless it is answered with 200."""
        self._request("POST", f"/v1/classify?label_set={label_set}&top_k=5", self._file, "image/jpeg")

    def register(self, label_set: str, labels: Sequence[str]) -> None:
        """Register a label set."""
        body = json.dumps({"labels": list(labels), "templates": "single"}).encode()
        self._request("PUT", f"/v1/label-sets/{label_set}", body, "application/json")

    def ask_unseen(self, labels: Sequence[str]) -> float:
        """Seconds of a request whose labels were never seen."""
        import base64

        body = json.dumps({"images": [base64.b64encode(self._file).decode()], "labels": list(labels), "top_k": 5}).encode()
        started = time.perf_counter()
        self._request("POST", "/v1/classify", body, "application/json")
        return time.perf_counter() - started

    def _request(self, method: str, path: str, body: bytes, media: str) -> None:
        from benchmarks.services import ServiceFailed

        headers = {"Content-Type": media}
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
        except ConnectionError:  # it was idle for longer than the service keeps a connection
            self._connection.close()
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
        content = answer.read()
        if answer.status not in (200, 201):
            raise ServiceFailed(f"{method} {path} was answered with HTTP {answer.status}: {content[:500].decode(errors='replace')}")


def run(*, quick: bool, tell: Tell) -> Record:
    """Measure all arms."""
    import torch

    from benchmarks.clip_subject import LAYERS, make
    from benchmarks.photographs import encoded, photograph
    from benchmarks.serving_arms import cores

    layers, many = (QUICK_LAYERS, QUICK_LABELS) if quick else (LAYERS, LABELS)
    rounds, asked, loaded_s = (2, 8, 2.0) if quick else (7, 20, 10.0)
    file = encoded(photograph(WIDTH, HEIGHT, noise=NOISE), "JPEG", quality=JPEG_QUALITY)
    labels = [f"a {adjective} {noun}" for adjective in _words("a", 40) for noun in _words("n", 40)]
    server_core, client_core = cores()
    threads, before = torch.get_num_threads(), os.sched_getaffinity(0)
    figures: list[Figure] = []
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as name:
        subject = make(Path(name), layers=layers, tell=lambda what: tell(what, 0.02))
        notes["passes"] = "; ".join(f"{tower}: {', '.join(passes)}" for tower, passes in subject.passes.items())
        visits = _visits_here(subject, file, many, layers=layers, asked=asked, notes=notes)
        try:
            torch.set_num_threads(1)
            with _serving({OURS: subject.optimized, PLAIN: subject.plain}, Path(name), server_core) as ports:
                os.sched_setaffinity(0, client_core)
                for variant, port in ports.items():
                    asking = Asking(port, file)
                    tell(f"{many} labels that were never seen, {variant}", 0.1)
                    figures.append(Figure(f"cold_{many}_labels_{variant}", asking.ask_unseen(labels[:many]), "s", 1))
                    for members in {many: labels[:many], FEW_LABELS: labels[:FEW_LABELS]}.values():
                        label_set = f"labels-{len(members)}"
                        asking.register(label_set, members)
                        asking.classify(label_set)  # waits for the set's embeddings
                        ask = _timed(partial(asking.classify, label_set), asked)
                        visits[f"warm_{len(members)}_labels_{variant}"] = _on(client_core, ask)
                samples = _rounds(visits, rounds, server_core, tell)
                os.sched_setaffinity(0, client_core)
                tell("saturation", 0.95)
                figures += [_saturation(variant, port, file, many, loaded_s) for variant, port in ports.items()]
        finally:
            os.sched_setaffinity(0, before)
            torch.set_num_threads(threads)
    aims = _summarize(samples, figures, many)
    return Record(machine_of(1), versions_of(PACKAGES), tuple(figures), aims, notes)


def _visits_here(
    subject: ClipSubject, file: bytes, many: int, *, layers: int, asked: int, notes: dict[str, str]
) -> dict[str, Callable[[], list[float]]]:
    """The arms that run in this process."""
    from benchmarks.clip_rivals import RivalMissing, open_clip_eager, transformers_pipeline
    from serving.clip.images import ImageReader
    from serving.runtime.session import GraphSession

    reader = ImageReader(subject.spec.image, max_bytes=2**24, max_pixels=2**24)
    feeds = {"pixels": reader.read(file)[None]}
    visits = {"preprocessing": _timed(partial(reader.read, file), asked)}
    for variant, bundle in ((OURS, subject.optimized), (PLAIN, subject.plain)):
        visits[f"image_tower_{variant}"] = _timed(partial(GraphSession(bundle.image_path, threads=1).run, feeds), asked)
    labels = [f"a {adjective} {noun}" for adjective in _words("a", 10) for noun in _words("n", 10)]
    visits["transformers_pipeline"] = _timed(transformers_pipeline(subject, file, labels[:FEW_LABELS]), 1)
    try:
        visits["open_clip_eager"] = _timed(open_clip_eager(subject, file, many, layers=layers), max(asked // 4, 2))
    except RivalMissing as missing:
        notes["open_clip_eager"] = f"skipped: {missing}"
    return visits


def _saturation(variant: str, port: int, file: bytes, many: int, seconds: float) -> Figure:
    """Most pictures a second that a few connections get classified."""
    from benchmarks.load_client import Load, prepare

    with Load(port, prepare(f"/v1/classify?label_set=labels-{many}&top_k=5", [file], "image/jpeg"), CONNECTIONS) as load:
        load.closed(seconds / 5)
        return Figure(f"saturation_{variant}", load.closed(seconds).rate(), "requests/s", 1)


def _summarize(samples: Mapping[str, list[list[float]]], figures: list[Figure], many: int) -> tuple[Aim, ...]:
    """Add percentiles and ratios of paired rounds to `figures`; the aims."""
    p50 = {name: [median(seconds) for seconds in rounds] for name, rounds in samples.items()}
    for name, rounds in samples.items():
        pooled = np.concatenate([np.asarray(seconds) for seconds in rounds]) * 1e3
        figures.append(Figure(f"{name}_p50", float(np.percentile(pooled, 50)), "ms", len(rounds)))
        if len(pooled) >= 100:
            figures.append(Figure(f"{name}_p99", float(np.percentile(pooled, 99)), "ms", len(rounds)))

    def ratio(name: str, above: str, below: str) -> float:
        value = median(a / b for a, b in zip(p50[above], p50[below], strict=True))
        figures.append(Figure(name, value, "x", len(p50[above])))
        return value

    warm, few = f"warm_{many}_labels_{OURS}", f"warm_{FEW_LABELS}_labels_{OURS}"
    ratio("optimized_tower_over_fp32_tower", f"image_tower_{OURS}", f"image_tower_{PLAIN}")
    ratio("warm_fp32_over_tower_fp32", f"warm_{many}_labels_{PLAIN}", f"image_tower_{PLAIN}")
    if "open_clip_eager" in p50:
        ratio("open_clip_over_warm", "open_clip_eager", warm)
    return (
        Aim("warm_over_image_tower", ratio("warm_over_image_tower", warm, f"image_tower_{OURS}"), "x", MAX_OVER_TOWER, at_most=True),
        Aim("pipeline_over_warm", ratio("pipeline_over_warm", "transformers_pipeline", few), "x", MIN_OVER_PIPELINE),
        Aim("preprocessing_share", ratio("preprocessing_share", "preprocessing", warm), "x", MAX_PREPROCESSING, at_most=True),
    )


def _rounds(visits: Mapping[str, Callable[[], list[float]]], rounds: int, core: frozenset[int], tell: Tell) -> dict[str, list[list[float]]]:
    """Visit all arms in turns, in another order each time, on the server's core unless they ask for the other."""
    draw = random.Random(0)
    samples: dict[str, list[list[float]]] = {name: [] for name in visits}
    for done in range(rounds):
        order = list(visits)
        draw.shuffle(order)
        for name in order:
            tell(name.replace("_", " "), 0.3 + 0.6 * done / rounds)
            os.sched_setaffinity(0, core)
            samples[name].append(visits[name]())
    return samples


def _timed(call: Callable[[], object], times: int) -> Callable[[], list[float]]:
    def visit() -> list[float]:
        call()
        taken = []
        for _ in range(times):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
        return taken

    return visit


def _on(core: frozenset[int], visit: Callable[[], list[float]]) -> Callable[[], list[float]]:
    def moved() -> list[float]:
        os.sched_setaffinity(0, core)
        return visit()

    return moved


@contextmanager
def _serving(bundles: Mapping[str, ClipBundle], folder: Path, core: frozenset[int]) -> Iterator[dict[str, int]]:
    from benchmarks.services import ServiceCommand, running

    commands = []
    for variant, bundle in bundles.items():
        environment = {
            "OMP_NUM_THREADS": "1",
            "PILOTAGE_BUNDLE": str(bundle.path),
            "PILOTAGE_THREADS": "1",
            "PILOTAGE_TEXT_BUDGET_S": str(TEXT_BUDGET_S),
            "PILOTAGE_CLASSIFY_OBJECTIVE_MS": str(OBJECTIVE_MS),
            "PILOTAGE_STATE_DIR": str(folder / f"state-{variant}"),
        }
        commands.append(ServiceCommand(variant, "serving.services.ranking:RankingService", environment, cores=core))
    with running(commands, folder) as ports:
        yield ports


def _words(letter: str, count: int) -> list[str]:
    """Made-up words of two syllables, always the same."""
    draw = random.Random(letter)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < count:
        words[draw.choice(syllables) + draw.choice(syllables)] = None
    return list(words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aims are met, 3 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip", description="CLIP zero-shot beside its rivals and its limit.")
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer labels: ends within 60 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    return report(
        lambda tell: run(quick=options.quick, tell=tell), "CLIP zero-shot: this service, its rivals, its limit", as_json=options.json
    )


if __name__ == "__main__":
    sys.exit(main())
