"""Two torch modules → two ONNX files, each checked against its module at several batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from optimize.export.clip.towers import PARITY_SIZES, image_example, text_example
from optimize.export.files import bundled, save_graph
from optimize.export.inputs import Example
from optimize.export.module import export_module
from optimize.export.module_parity import Check, check_module
from serving.contract.clip import IMAGE_EMBEDS, TEXT_EMBEDS, ClipSpec
from serving.contract.manifest import Signature, TowerFiles, clip_signatures
from serving.runtime.session import GraphSession

FILES = TowerFiles(image="image.onnx", text="text.onnx")


@dataclass(frozen=True)
class ExportedTowers:
    """Both graphs on disk.

    Attributes
    ----------
    files
        Name in a bundle → file: the graphs and, where they are large, their weights.
    checks
        ``image`` and ``text`` → how far each is from torch, at each size.
    """

    folder: Path
    files: dict[str, Path]
    checks: Mapping[str, list[Check]]

    @property
    def worst(self) -> dict[str, float]:
        """Largest difference of each tower to torch, as a share of the largest magnitude."""
        return {tower: max(check.difference for check in checks) for tower, checks in self.checks.items()}


def export_towers(
    image: nn.Module, text: nn.Module, spec: ClipSpec, folder: Path, *, vocabulary: int, end_id: int | None, threads: int = 1
) -> ExportedTowers:
    """Export both towers into `folder`, which exists.

    Parameters
    ----------
    image
        Takes ``pixels (B, S, S, 3) uint8``, gives embeddings of length 1.
    text
        Takes ``input_ids (T, L) int64``, gives embeddings of length 1.
    vocabulary, end_id
        As for `text_example`.

    Raises
    ------
    ExportError
        torch cannot export a tower, or the graph answers otherwise than the module does.
    BundleError
        A graph does not have the signature that follows from `spec`.
    """
    signatures = clip_signatures(spec)
    checks = {
        "image": _export(image, image_example(image, spec), IMAGE_EMBEDS, folder / FILES.image, signatures.image, threads),
        "text": _export(text, text_example(text, spec, vocabulary, end_id), TEXT_EMBEDS, folder / FILES.text, signatures.text, threads),
    }
    files = {**bundled(folder / FILES.image, FILES.image), **bundled(folder / FILES.text, FILES.text)}
    return ExportedTowers(folder, files, checks)


def _export(tower: nn.Module, example: Example, output: str, path: Path, signature: Signature, threads: int) -> list[Check]:
    save_graph(export_module(tower, example, outputs=(output,)), path)
    GraphSession(path, threads=threads).require(signature)
    return check_module(tower, example, path, sizes=PARITY_SIZES, threads=threads)
