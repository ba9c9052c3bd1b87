"""CLIP bundle and labelled pictures → the same bundle with faster towers, each inside the budget, and both together, too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from optimize.bundling import VERSION_DIGITS, digest_of, git_commit, require_named
from optimize.clip_bundling import TOKENIZER_NAME
from optimize.data.pictures import Pictures
from optimize.export.clip.to_towers import FILES
from optimize.export.files import bundled, load_graph, save_graph
from optimize.search.budget import Bootstrap, Change
from optimize.search.cache import Cache
from optimize.search.candidates import REFERENCE, Candidate
from optimize.search.clip_towers import TEXTS_A_RUN, Evaluation, Floats, chunks, embed, image_subject, joined, read_evaluation, text_subject
from optimize.search.machine import package_versions
from optimize.search.metrics import METRICS
from optimize.search.page import render
from optimize.search.report import PAGE_NAME, REPORT_NAME, OptimizeReport
from optimize.search.search import SAME, SearchSettings, search
from serving.contract.bundle import ClipBundle, require_writable, write_bundle
from serving.contract.manifest import ClipManifest, Quality
from serving.runtime.session import GraphSession

Progress = Callable[[str, float], None]

Graphs = dict[str, tuple[str, Path]]
"""Tower → name of its candidate, and the graph."""

SUBJECTS = {"image": image_subject, "text": text_subject}


class Together(BaseModel):
    """What the chosen towers do together, on pictures that chose nothing.

    Attributes
    ----------
    accuracy, reference_accuracy
        Zero-shot, of the test part, in 0 to 1; of the new bundle and of the one before.
    image_cosine, text_cosine
        Mean cosine of pictures' and labels' embeddings to those of the bundle before.
    change
        Of the accuracy on the validation part, in points, against the bundle before; positive is worse.
    chosen
        Tower → candidate.
    reason
        Why a tower was put back, empty when none was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: float
    reference_accuracy: float
    image_cosine: float
    text_cosine: float
    change: Change
    chosen: dict[str, str]
    reason: str = ""


def optimize_bundle(
    bundle: ClipBundle,
    pictures: Pictures,
    target: Path,
    candidates: Mapping[str, Sequence[Candidate]],
    settings: SearchSettings,
    cache: Cache,
    *,
    max_pictures: int,
    version: str | None = None,
    replace: bool = False,
    progress: Progress = lambda what, share: None,
) -> tuple[ClipBundle, dict[str, OptimizeReport], Together]:
    """Search both towers, and write a bundle of the chosen ones with both reports.

    Parameters
    ----------
    candidates
        For ``image`` and ``text``; a tower that is not among them stays as it is.

    Raises
    ------
    SubjectError
        The pictures do not do.
    PilotageError
        `target` exists and may not be replaced, or `version` is not allowed.
    """
    require_named(None, version)
    require_writable(target, replace=replace)
    progress("reading pictures", 0.0)
    evaluation = read_evaluation(bundle, pictures, max_pictures=max_pictures, seed=settings.seed, threads=settings.threads)
    with tempfile.TemporaryDirectory(prefix="clip-") as name:
        folder = Path(name)
        found, reports = _searched(bundle, evaluation, candidates, settings, cache, folder, progress)
        graphs, together = _kept(bundle, evaluation, found, settings)
        progress("writing the bundle", 1.0)
        files = {TOKENIZER_NAME: bundle.tokenizer_path}
        for tower in SUBJECTS:
            file_name: str = getattr(FILES, tower)
            save_graph(load_graph(graphs[tower][1]), folder / file_name)
            files |= bundled(folder / file_name, file_name)
        version = version or digest_of([files[key] for key in sorted(files)])[:VERSION_DIGITS]
        for tower, report in reports.items():
            for file_name, text in ((REPORT_NAME, report.model_dump_json(indent=2) + "\n"), (PAGE_NAME, render(report, None, cache))):
                (folder / f"{tower}-{file_name}").write_text(text, encoding="utf-8")
                files[f"optimize/{tower}/{file_name}"] = folder / f"{tower}-{file_name}"
        return write_bundle(target, _manifest(bundle, evaluation, together, version), files, replace=replace), reports, together


def _searched(
    bundle: ClipBundle,
    evaluation: Evaluation,
    candidates: Mapping[str, Sequence[Candidate]],
    settings: SearchSettings,
    cache: Cache,
    folder: Path,
    progress: Progress,
) -> tuple[Graphs, dict[str, OptimizeReport]]:
    """What each tower's search chose, and its report."""
    graphs, reports = _as_they_are(bundle), {}
    for number, (tower, listed) in enumerate(candidates.items()):
        (folder / tower).mkdir()

        def step(what: str, share: float, number: int = number, tower: str = tower) -> None:
            progress(f"{tower} tower, {what}", (number + share) / len(candidates))

        subject = SUBJECTS[tower](bundle, evaluation, settings.budget.metric)
        report = reports[tower] = search(subject, listed, folder / tower, settings, cache, step)
        file = report.candidate(report.chosen).file
        if report.chosen != REFERENCE and file is not None:
            graphs[tower] = report.chosen, folder / tower / file
    return graphs, reports


def _kept(bundle: ClipBundle, evaluation: Evaluation, found: Graphs, settings: SearchSettings) -> tuple[Graphs, Together]:
    """The chosen towers, or the image tower alone where both together are not surely inside a budget in accuracy.

    Embeddings of labels are kept by the service, so the text tower's time matters less.
    """
    together = _judge(bundle, evaluation, found, settings)
    change, budget = together.change, settings.budget
    if budget.metric != "accuracy" or change.is_within(budget.limit) or any(name == REFERENCE for name, _ in found.values()):
        return found, together
    kept = {**found, "text": _as_they_are(bundle)["text"]}
    worse = f"{budget.of.show(change.value)}, maybe by up to {budget.of.show(change.high)}"
    reason = f"both towers together are worse by {worse}; the budget is {budget.of.show(budget.limit)}: the text tower stays as it was"
    return kept, _judge(bundle, evaluation, kept, settings).model_copy(update={"reason": reason})


def _judge(bundle: ClipBundle, evaluation: Evaluation, graphs: Graphs, settings: SearchSettings) -> Together:
    """Compare both towers with both that were."""
    image, text = (GraphSession(graphs[tower][1], threads=settings.threads) for tower in ("image", "text"))
    labels = joined(embed(text, chunks(evaluation.texts, TEXTS_A_RUN)), len(evaluation.pictures.labels))
    new = {name: embed(image, part.feeds) for name, part in (("validation", evaluation.validation), ("test", evaluation.test))}
    old, old_labels, metric = evaluation.image_embeddings, evaluation.label_embeddings, METRICS["accuracy"]
    was, now = old["validation"] @ old_labels.T, new["validation"] @ labels.T
    change = Change(0.0, 0.0, 0.0)
    if np.abs(now - was).max() > SAME * np.abs(was).max():
        before, after = (metric.losses(evaluation.validation.label, scores, was) for scores in (was, now))
        change = Bootstrap(len(was), looks=1, seed=settings.seed).change(metric, before, after)
    return Together(
        accuracy=_accuracy(new["test"], labels, evaluation.test.label),
        reference_accuracy=_accuracy(old["test"], old_labels, evaluation.test.label),
        image_cosine=float((old["test"] * new["test"]).sum(axis=1).mean()),
        text_cosine=float((labels * old_labels).sum(axis=1).mean()),
        change=change,
        chosen={tower: name for tower, (name, _) in graphs.items()},
    )


def _accuracy(pictures: Floats, labels: Floats, truth: npt.NDArray[np.int64]) -> float:
    return float(((pictures @ labels.T).argmax(axis=1) == truth).mean())


def _as_they_are(bundle: ClipBundle) -> Graphs:
    return {"image": (REFERENCE, bundle.image_path), "text": (REFERENCE, bundle.text_path)}


def _manifest(bundle: ClipBundle, evaluation: Evaluation, together: Together, version: str) -> ClipManifest:
    quality = Quality(
        data=f"{evaluation.pictures.name}, test part",
        data_fingerprint=evaluation.fingerprint,
        rows=len(evaluation.test.label),
        metrics={
            "zero_shot_accuracy": together.accuracy,
            "zero_shot_reference_accuracy": together.reference_accuracy,
            "image_cosine": together.image_cosine,
            "text_cosine": together.text_cosine,
        },
    )
    made = {
        "created_at": datetime.now(UTC),
        "variant": f"image {together.chosen['image']}, text {together.chosen['text']}",
        "git_commit": git_commit(),
        "versions": package_versions(),
    }
    provenance = bundle.manifest.provenance.model_copy(update=made)
    return bundle.manifest.model_copy(
        update={"version": version, "towers": FILES, "tokenizer": TOKENIZER_NAME, "quality": quality, "provenance": provenance}
    )
