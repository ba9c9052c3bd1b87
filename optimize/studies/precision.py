"""What fewer bits cost and bring: ``python -m optimize.studies.precision [--quick] [--only ranker|encoder] [--out FOLDER]``.

Every format of `FORMATS` is made of two trained models by the passes that anybody can use, and compared with float32: quality on data that
no pass saw, time of a run in interleaved rounds on the serving runtime with one thread, size of the file, memory of a process. What a
format does not apply to, or has no pass for, is listed with the reason. ``precision.json`` holds every figure, ``quality.png`` and
``latency.png`` show them, docs/studies/precision.md reads them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from optimize.console import progress_bar
from optimize.export.files import files_of, save_graph
from optimize.passes.base import Context, PassNotApplicable
from optimize.passes.registry import UnknownPass, parse_pass
from optimize.search.machine import describe_machine, package_versions
from optimize.search.measure import Samples, measure, summary
from optimize.search.memory import peak_memory
from optimize.studies.precision_subjects import Subject, SubjectMissing, encoder, ranker
from optimize.studies.precision_summary import REFERENCE, Described, Outcome, Time, draw_latency, draw_quality, table
from serving.contract.errors import PilotageError
from serving.runtime.session import GraphSession

THREADS = 1
JSON_NAME = "precision.json"

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Format:
    """A way of storing or computing with fewer bits.

    Attributes
    ----------
    passes
        Applied in order, as `optimize.passes.registry.parse_pass` reads them.
    """

    name: str
    passes: tuple[str, ...]


FORMATS = (
    Format(REFERENCE, ()),
    Format("bf16", ("bf16",)),
    Format("fp16", ("fp16",)),
    Format("int8 dynamic", ("int8_dynamic",)),
    Format("int8 static", ("int8_static",)),
    Format("int8 static, smoothed", ("smooth_quant", "int8_static")),
    Format("int8 mixed", ("mixed_precision",)),
    Format("int8 weights", ("weight_only:bits=8",)),
    Format("int4 weights", ("weight_only",)),
    Format("int4 weights, blocks of 128", ("weight_only:block_size=128",)),
    Format("int8 dynamic, int8 tables", ("int8_dynamic", "table_bits:bits=8")),
    Format("int4 weights, int4 tables", ("weight_only", "table_bits:bits=4")),
)


@dataclass(frozen=True)
class StudySettings:
    """Size of the study."""

    impressions: int = 120_000
    epochs: int = 6
    sentences: int = 256
    rounds: int = 40
    memory: bool = True
    seed: int = 0


QUICK = StudySettings(impressions=10_000, epochs=1, sentences=16, rounds=5, memory=False)
QUICK_FORMATS = tuple(format_ for format_ in FORMATS if format_.name in (REFERENCE, "bf16", "fp16", "int8 dynamic", "int4 weights"))
"""To see that it runs; its ranker has hardly learnt anything."""


def run(subject: Subject, settings: StudySettings, folder: Path, tell: Tell, formats: Sequence[Format] = FORMATS) -> list[Outcome]:
    """Make every format of a subject in `folder`, and measure those that there are."""
    skipped: dict[str, str] = {}
    sessions: dict[str, GraphSession] = {}
    for i, format_ in enumerate(formats):
        tell(f"{subject.name}: making {format_.name}", 0.3 * i / len(formats))
        try:
            sessions[format_.name] = _session(subject, format_, folder / f"{i}.onnx")
        except PassNotApplicable as error:
            skipped[format_.name] = str(error)
        except UnknownPass as error:
            skipped[format_.name] = str(error).partition(";")[0]
        except PilotageError as error:
            if format_.name == REFERENCE:
                raise
            skipped[format_.name] = f"could not be made: {error}"
    answers = {}
    for i, (name, session) in enumerate(sessions.items()):
        tell(f"{subject.name}: judging {name}", 0.3 + 0.3 * i / len(sessions))
        answers[name] = np.concatenate([session.run(feeds)[0] for feeds in subject.runs])
    samples = measure(
        sessions,
        subject.timing,
        rounds=settings.rounds,
        seed=settings.seed,
        on_round=lambda taken: tell(f"{subject.name}: timing", 0.6 + 0.3 * len(next(iter(taken.values()))) / settings.rounds),
    )
    largest = subject.timing[max(subject.timing)]
    outcomes = []
    for i, format_ in enumerate(formats):
        tell(f"{subject.name}: memory of {format_.name}", 0.9 + 0.1 * i / len(formats))
        if format_.name in skipped:
            outcomes.append(Outcome(subject.name, format_.name, format_.passes, skipped[format_.name]))
            continue
        session = sessions[format_.name]
        outcomes.append(
            Outcome(
                subject.name,
                format_.name,
                format_.passes,
                size_bytes=sum(file.stat().st_size for file in files_of(session.path)),
                memory_bytes=peak_memory(session.path, largest, THREADS) if settings.memory else None,
                quality=subject.judge(answers[format_.name], answers[REFERENCE]),
                times=tuple(_time(samples, format_.name, size) for size in subject.timing),
            )
        )
    return outcomes


def write(document: Mapping[str, Described], folder: Path) -> None:
    """Write ``precision.json`` and the pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_NAME).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw_quality(document, folder / "quality.png")
    draw_latency(document, folder / "latency.png")


def described(subject: Subject, outcomes: Sequence[Outcome], settings: StudySettings) -> Described:
    """What the JSON says of one subject; each has its machine, since each may be measured on its own."""
    return {
        "title": subject.title,
        "data": subject.data,
        "unit": subject.unit,
        "loss": subject.loss,
        "settings": asdict(settings),
        "machine": describe_machine(THREADS).model_dump(),
        "versions": package_versions(),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(prog="python -m optimize.studies.precision", description="What fewer bits cost and bring.")
    parser.add_argument("--quick", action="store_true", help="little data and few rounds, under a minute: to see that it runs")
    parser.add_argument("--only", choices=("ranker", "encoder"), help="measure one model; what the JSON says of the other is kept")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/precision"), help="folder of the JSON and the pictures")
    given = parser.parse_args(arguments)
    settings, formats = (QUICK, QUICK_FORMATS) if given.quick else (StudySettings(), FORMATS)
    held = given.out / JSON_NAME
    document: dict[str, Described] = json.loads(held.read_text(encoding="utf-8")) if given.only and held.exists() else {}
    makers: dict[str, Callable[[], Subject]] = {
        "ranker": lambda: ranker(settings.impressions, settings.epochs, settings.seed),
        "encoder": lambda: encoder(settings.sentences, settings.seed),
    }
    with progress_bar() as tell:
        for name, make in makers.items():
            if given.only not in (None, name):
                continue
            tell(f"{name}: getting it ready", 0.0)
            try:
                subject = make()
            except SubjectMissing as error:
                sys.stderr.write(f"{error}\n")
                continue
            with tempfile.TemporaryDirectory(prefix="pilotage-precision-") as folder:
                document[name] = described(subject, run(subject, settings, Path(folder), tell, formats), settings)
        tell("done", 1.0)
    if not document:
        return 3
    write(document, given.out)
    for name, described_ in document.items():
        sys.stdout.write(f"{described_['title']}, {described_['data']}\n\n{table(name, described_)}\n")
    return 0


def _session(subject: Subject, format_: Format, path: Path) -> GraphSession:
    graph: onnx.ModelProto = subject.graph
    for text in format_.passes:
        graph = parse_pass(text).apply(graph, Context(calibration=subject.calibration))
    save_graph(graph, path)
    return GraphSession(path, threads=THREADS)


def _time(samples: Samples, name: str, size: int) -> Time:
    ours, reference = samples[name, size], samples[REFERENCE, size]
    latency = summary(size, ours)
    speedups = [before / after for before, after in zip(reference, ours, strict=True)]
    return Time(size, latency.p50_ms, latency.p95_ms, latency.rounds, median(speedups))


if __name__ == "__main__":
    raise SystemExit(main())
