"""``pilotage train clip``: scenes, training, export, int8, test, report, card and bundle, in one go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from optimize.data.scenes.captions import grammar
from optimize.data.scenes.dataset import Scenes, draw_training_scenes
from optimize.data.scenes.suites import suites
from optimize.embedded import bundle, exam, page
from optimize.embedded.report import PAGE_NAME, REPORT_NAME, ClipReport, VariantSize
from optimize.embedded.towers import INT8, REFERENCE, GraphTowers, export_towers, quantize_towers
from optimize.export.files import files_of
from optimize.features.words import build_tokenizer
from optimize.models.clip_small import ClipSmall, ClipSmallSettings
from optimize.search.machine import describe_machine, package_versions
from optimize.training import contrastive
from optimize.training.contrastive import ContrastiveSettings, Epoch, TorchTowers
from optimize.training.zero_shot import Exam, accuracy, draw_exams
from serving.contract.files import replace_folder

WEIGHTS_NAME = "model.safetensors"
VARIANTS_FOLDER, BUNDLE_FOLDER = "variants", "bundle"
MAX_LOSS = 0.005
"""Accuracy that int8 may lose against float32 on the validation part; more, and float32 is shipped."""

VALIDATION_PER_LABEL = 8

Progress = Callable[[str, float], None]
TRAINED_AT = 0.9
"""Share of the progress bar at which training ends."""


def run(
    model_settings: ClipSmallSettings, settings: ContrastiveSettings, out: Path, *, seed: int, threads: int, progress: Progress,
    per_label: int,
) -> ClipReport:  # fmt: skip
    """Train and judge a small CLIP and write the run folder `out`, its bundle included.

    Parameters
    ----------
    threads
        Threads of torch, processes that draw scenes, and threads of the graphs.
    per_label
        Test pictures for each unseen combination.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    seconds: dict[str, float] = {}
    with _timed(seconds, "scenes"):
        data = draw_training_scenes(settings.scenes, seed, threads, lambda share: progress("drawing scenes", 0.1 * share))
        validation = draw_exams([suite for suite in suites("validation", VALIDATION_PER_LABEL) if suite.name == exam.MAIN])[0]
    with _timed(seconds, "training"):
        model, tokenizer, epochs = _train(model_settings, settings, data, validation, seed, progress)
    with replace_folder(out, marker=REPORT_NAME) as folder:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / WEIGHTS_NAME)
        tokenizer.save(str(folder / bundle.TOKENIZER_NAME))
        progress("exporting", TRAINED_AT)
        with _timed(seconds, "export"):
            parity = export_towers(model, folder / VARIANTS_FOLDER, seed)
            quantize_towers(folder / VARIANTS_FOLDER)
        variants = {name: GraphTowers(folder / VARIANTS_FOLDER / name, tokenizer, threads) for name in (REFERENCE, INT8)}
        scores = {name: accuracy(validation, towers) for name, towers in variants.items()}
        lost = scores[REFERENCE] - scores[INT8]
        chosen = INT8 if lost <= MAX_LOSS else REFERENCE
        progress("testing", TRAINED_AT + 0.04)
        with _timed(seconds, "test"):
            exams = draw_exams(suites("test", per_label))
            results = exam.examine(exams, variants)
        main = next(one for one in exams if one.suite.name == exam.MAIN)
        scale = model.logit_scale.item()
        report = ClipReport(
            created_at=datetime.now(UTC),
            seed=seed,
            model=model_settings,
            training=settings,
            epochs=tuple(epochs),
            training_fingerprint=data.fingerprint(),
            test_fingerprint=exam.fingerprint(exams),
            logit_scale=scale,
            parameters=sum(p.numel() for p in model.parameters()),
            vocabulary=tokenizer.get_vocab_size(),
            chosen=chosen,
            reason=f"on the validation part int8 loses {100 * lost:.2f} points of accuracy, and {100 * MAX_LOSS:g} are taken for its speed",
            validation=scores,
            suites=tuple(results),
            confusion=exam.confusion_of(main, variants[chosen]),
            samples=exam.samples_of(main, variants[chosen], scale),
            sizes={name: _sizes(folder / VARIANTS_FOLDER / name) for name in variants},
            parity=parity,
            machine=describe_machine(threads),
            versions=package_versions(),
            seconds=seconds,
        )
        progress("writing report and bundle", 0.98)
        (folder / REPORT_NAME).write_text(report.model_dump_json() + "\n", encoding="utf-8")
        (folder / PAGE_NAME).write_text(page.render(report), encoding="utf-8")
        (folder / bundle.CARD_NAME).write_text(page.card(report), encoding="utf-8")
        bundle.write(report, folder / VARIANTS_FOLDER / chosen, folder / bundle.TOKENIZER_NAME, folder, folder / BUNDLE_FOLDER)
    progress("done", 1.0)
    return report


def _train(
    model_settings: ClipSmallSettings, settings: ContrastiveSettings, data: Scenes, validation: Exam, seed: int, progress: Progress
) -> tuple[ClipSmall, Tokenizer, list[Epoch]]:
    tokenizer = build_tokenizer(grammar(), model_settings.context_length)
    model = ClipSmall(model_settings, tokenizer.get_vocab_size())

    def validate(towers: TorchTowers) -> float:
        return accuracy(validation, towers)

    def on_step(step: int, steps: int, loss: float) -> None:
        progress(f"training: step {step} of {steps}, loss {loss:.3f}", 0.1 + (TRAINED_AT - 0.1) * step / steps)

    epochs = contrastive.train(model, tokenizer, data, settings, seed, validate, on_step)
    return model, tokenizer, epochs


def _sizes(folder: Path) -> VariantSize:
    sizes = [sum(file.stat().st_size for file in files_of(folder / name)) for name in (bundle.IMAGE_GRAPH, bundle.TEXT_GRAPH)]
    return VariantSize(image_bytes=sizes[0], text_bytes=sizes[1])


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 1)
