"""The manifest of a bundle: what is in it, what it takes and gives, how it was made and how good it is."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from serving.contract.clip import ATTENTION_MASK, IMAGE_EMBEDS, INPUT_IDS, PIXELS, TEXT_EMBEDS, ClipSpec
from serving.contract.fields import PROBABILITY, REQUEST_INDEX, FeatureSpec

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA_VERSION: Literal[1] = 1
DType = Literal["string", "int64", "float32", "uint8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
ModelVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Frozen):
    """One file of a bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class TensorSpec(_Frozen):
    """One input or output of the graph; a letter in ``shape`` is a dynamic axis."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]


class Signature(_Frozen):
    """Inputs and outputs of the graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Calibration(_Frozen):
    """How the raw logit ``z`` becomes a probability: ``sigmoid(scale * z + offset)``, folded into the graph.

    Attributes
    ----------
    method
        ``platt`` (fitted on validation data) or ``none``.
    negative_sampling_rate
        Share of negatives kept in training; its logarithm is already part of ``offset``.
    """

    method: Literal["platt", "none"]
    scale: float
    offset: float
    negative_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0


class Quality(_Frozen):
    """Metrics of the shipped graph on data it was not chosen on, and which data that was."""

    data: str
    data_fingerprint: str
    rows: Annotated[int, Field(ge=1)]
    metrics: dict[str, float]

    @model_validator(mode="after")
    def _finite(self) -> Self:
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"metric {name!r} is {value}, which is no measurement")
        return self


class Source(_Frozen):
    """The checkpoint that a bundle was made of."""

    name: str
    """Its id on a hub, or its folder's name."""
    revision: str | None = None
    """Commit on the hub."""
    fingerprint: Sha256
    """SHA-256 over names and contents of the files that were read."""


class Provenance(_Frozen):
    """Where the bundle comes from."""

    created_at: AwareDatetime
    architecture: str
    variant: str
    """Name of the chosen candidate, for example ``fp32`` or ``int8_dynamic``."""
    seed: int | None
    """Of the training; None where somebody else trained."""
    git_commit: str | None = None
    versions: dict[str, str]
    source: Source | None = None
    """None where the project trained the model itself."""


class _Manifest(_Frozen):
    """What the manifests of all families have."""

    schema_version: Literal[1] = MANIFEST_SCHEMA_VERSION
    name: ModelName
    version: ModelVersion
    quality: Quality
    provenance: Provenance
    files: dict[str, FileEntry]


class RankingManifest(_Manifest):
    """``manifest.json`` of a bundle with one graph that scores candidates."""

    family: Literal["ranking"]
    graph: str
    signature: Signature
    features: FeatureSpec
    calibration: Calibration

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.graph not in self.files:
            raise ValueError(f"graph {self.graph!r} is not among the files")
        expected = ranking_signature(self.features)
        if self.signature != expected:
            gap = difference(expected, self.signature) or "its tensors have another order or other axes"
            raise ValueError(f"signature does not follow from the feature specification: {gap}")
        return self


class TowerFiles(_Frozen):
    """The ONNX files of both towers; they may share a file of weights beside them."""

    image: str
    text: str


class TowerSignatures(_Frozen):
    """Inputs and outputs of both towers."""

    image: Signature
    text: Signature


class ClipManifest(_Manifest):
    """``manifest.json`` of a bundle with an image tower and a text tower."""

    family: Literal["clip"]
    towers: TowerFiles
    tokenizer: str
    clip: ClipSpec

    @property
    def signatures(self) -> TowerSignatures:
        """What the towers take and give, which follows from the specification."""
        return clip_signatures(self.clip)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        named = {"image tower": self.towers.image, "text tower": self.towers.text, "tokenizer": self.tokenizer}
        for what, name in named.items():
            if name not in self.files:
                raise ValueError(f"{what} {name!r} is not among the files")
        if len(set(named.values())) < len(named):
            raise ValueError(f"towers and tokenizer must be three files, not {', '.join(map(repr, named.values()))}")
        return self


Manifest = RankingManifest | ClipManifest
FAMILIES: dict[str, type[RankingManifest] | type[ClipManifest]] = {"ranking": RankingManifest, "clip": ClipManifest}


def ranking_signature(spec: FeatureSpec) -> Signature:
    """Inputs and outputs that a ranking graph for `spec` has.

    One input a field, named like it: ``(R,)`` or ``(R, V_name)`` for user and context, ``(N,)`` or ``(N, V_name)``
    for candidates; ``request_index (N,) int64``; one output ``probability (N,) float32``.
    """
    inputs = []
    for field in spec.fields:
        rows = "N" if field.part == "candidate" else "R"
        if field.kind == "numeric":
            inputs.append(TensorSpec(name=field.name, dtype="float32", shape=(rows,)))
        else:
            shape = (rows, f"V_{field.name}") if field.is_list else (rows,)
            inputs.append(TensorSpec(name=field.name, dtype=field.dtype, shape=shape))
    inputs.append(TensorSpec(name=REQUEST_INDEX, dtype="int64", shape=("N",)))
    return Signature(inputs=tuple(inputs), outputs=(TensorSpec(name=PROBABILITY, dtype="float32", shape=("N",)),))


def clip_signatures(spec: ClipSpec) -> TowerSignatures:
    """Inputs and outputs that the towers for `spec` have.

    ``pixels (B, S, S, 3) uint8`` (RGB) → ``image_embeds (B, D) float32``; ``input_ids (T, L) int64`` and, where the specification
    says so, ``attention_mask (T, L) int64`` → ``text_embeds (T, D) float32``. Embeddings have length 1. ``L`` is fixed where
    texts are padded to ``max_length``.
    """
    size, dim = spec.image.size, spec.embedding_size
    tokens = (INPUT_IDS, ATTENTION_MASK) if spec.text.uses_attention_mask else (INPUT_IDS,)
    length = spec.text.context_length if spec.text.padding == "max_length" else "L"
    return TowerSignatures(
        image=Signature(
            inputs=(TensorSpec(name=PIXELS, dtype="uint8", shape=("B", size, size, 3)),),
            outputs=(TensorSpec(name=IMAGE_EMBEDS, dtype="float32", shape=("B", dim)),),
        ),
        text=Signature(
            inputs=tuple(TensorSpec(name=name, dtype="int64", shape=("T", length)) for name in tokens),
            outputs=(TensorSpec(name=TEXT_EMBEDS, dtype="float32", shape=("T", dim)),),
        ),
    )


def difference(expected: Signature, found: Signature) -> str:
    """Say in words where two signatures part; names and dtypes count, ranks and fixed axes, not the letters of axes."""
    for kind, wanted, given in (("input", expected.inputs, found.inputs), ("output", expected.outputs, found.outputs)):
        by_name = {tensor.name: tensor for tensor in given}
        for tensor in wanted:
            other = by_name.pop(tensor.name, None)
            if other is None:
                return f"{kind} {tensor.name!r} is missing"
            if other.dtype != tensor.dtype:
                return f"{kind} {tensor.name!r} is {other.dtype}, expected {tensor.dtype}"
            if len(other.shape) != len(tensor.shape):
                return f"{kind} {tensor.name!r} has {len(other.shape)} axes, expected {len(tensor.shape)}"
            for axis, (size, found_size) in enumerate(zip(tensor.shape, other.shape, strict=True)):
                if isinstance(size, int) and isinstance(found_size, int) and size != found_size:
                    return f"axis {axis} of {kind} {tensor.name!r} is {found_size}, expected {size}"
        if by_name:
            return f"{kind} {next(iter(by_name))!r} is not expected"
    return ""
