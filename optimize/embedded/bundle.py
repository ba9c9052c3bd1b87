"""The bundle of the embedded CLIP: two graphs, the tokenizer, the report and the card."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from optimize.bundling import VERSION_DIGITS, digest_of, git_commit
from optimize.data.scenes.render import SIDE
from optimize.embedded.exam import MAIN
from optimize.embedded.report import PAGE_NAME, REPORT_NAME, ClipReport
from optimize.export.files import bundled, files_of
from optimize.features.words import PAD_ID
from optimize.models.clip_small import MEAN, STD
from serving.contract.bundle import ClipBundle, write_bundle
from serving.contract.clip import ClipSpec, ImageSpec, ScoringSpec, TextSpec
from serving.contract.manifest import ClipManifest, Provenance, Quality, TowerFiles

NAME = "clip-scenes"
TOKENIZER_NAME, CARD_NAME = "tokenizer.json", "README.md"
IMAGE_GRAPH, TEXT_GRAPH = "image.onnx", "text.onnx"


def spec_of(report: ClipReport) -> ClipSpec:
    """What host code must know of the model."""
    return ClipSpec(
        image=ImageSpec(size=SIDE, resize="shortest_edge", resize_to=SIDE, resample="bicubic", mean=(MEAN,) * 3, std=(STD,) * 3),
        text=TextSpec(
            context_length=report.model.context_length, padding="longest", pad_id=PAD_ID, canonicalize="none", truncate=True,
            uses_attention_mask=False,
        ),
        scoring=ScoringSpec(kind="softmax", logit_scale=report.logit_scale),
        embedding_size=report.model.embedding_size,
        templates="plain",  # labels are whole captions: "three red stars"
    )  # fmt: skip


def write(report: ClipReport, towers: Path, tokenizer: Path, documents: Path, target: Path) -> ClipBundle:
    """Write the bundle.

    Parameters
    ----------
    towers
        Folder of the chosen variant.
    documents
        Folder with the report, its page and the card.
    """
    graphs = [towers / IMAGE_GRAPH, towers / TEXT_GRAPH]
    main = report.suite(MAIN)
    manifest = ClipManifest.model_construct(
        name=NAME,
        version=digest_of([*(file for graph in graphs for file in files_of(graph)), tokenizer])[:VERSION_DIGITS],
        family="clip",
        towers=TowerFiles(image=IMAGE_GRAPH, text=TEXT_GRAPH),
        tokenizer=TOKENIZER_NAME,
        clip=spec_of(report),
        quality=Quality(
            data="rendered scenes, test part: combinations that training never saw",
            data_fingerprint=report.test_fingerprint,
            rows=main.pictures,
            metrics={f"accuracy, {suite.name}": suite.accuracy[report.chosen] for suite in report.suites},
        ),
        provenance=Provenance(
            created_at=datetime.now(UTC),
            architecture="clip_small",
            variant=report.chosen,
            seed=report.seed,
            git_commit=git_commit(),
            versions=report.versions,
        ),
        files={},
    )
    files = {
        **bundled(graphs[0], IMAGE_GRAPH), **bundled(graphs[1], TEXT_GRAPH), TOKENIZER_NAME: tokenizer,
        **{name: documents / name for name in (REPORT_NAME, PAGE_NAME, CARD_NAME)},
    }  # fmt: skip
    return write_bundle(target, manifest, files, replace=True)
