"""Settings of the service: environment variables ``PILOTAGE_…``, read when a worker starts."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.contract.errors import SettingsError
from serving.runtime.cpus import usable_cores
from serving.runtime.provider_names import Provider


class ServiceSettings(BaseSettings):
    """What an operator may set. No setting is called ``port`` or ``service_host``: Kubernetes injects
    ``PILOTAGE_PORT=tcp://…`` beside a Service named ``pilotage``.
    """  # noqa: D205

    model_config = SettingsConfigDict(env_prefix="PILOTAGE_", frozen=True, extra="ignore")

    bundle: str = "bundle"
    """Folder of the bundle, or ``bentoml:NAME[:VERSION]`` for one in BentoML's model store; several are parted by commas, and
    the first is what ``/v1/rank`` asks. The default is the folder that a Bento carries."""

    bundle_sha256: str | None = None
    """SHA-256 of each bundle's ``manifest.json``, in the order of the bundles and parted by commas, nothing where one is not pinned: the
    manifest has the checksums of all other files."""

    workers: int = Field(1, ge=1, le=256)
    """Worker processes. Each runs one request at a time; one a core is the fastest, with ``threads`` left at 0."""

    threads: int = Field(0, ge=0, le=256)
    """Threads inside one run of the graph; 0 shares the cores that the container may use among the workers."""

    provider: Provider = "cpu"
    """ONNX Runtime's execution provider; one that is not installed is refused at start."""

    arena_mib: int = Field(1024, ge=16, le=1_048_576)
    """Most memory that the runs of a worker may use, beside the weights."""

    objective_ms: float = Field(50.0, gt=0, le=60_000)
    """Time within which an accepted request shall be answered; what would take longer is refused at once."""

    max_candidates: int = Field(1000, ge=1, le=100_000)
    """Most candidates a request, and in one run: at 500 a run takes milliseconds, and one caller must not hold a worker for long."""

    max_body_bytes: int = Field(4 * 2**20, ge=1024, le=2**30)
    """Largest body: 1,000 candidates with ten 100-character values each are some 1.3 MB."""

    classify_objective_ms: float = Field(1000.0, gt=0, le=600_000)
    """Time within which an accepted classification with known labels shall be answered; what would take longer is refused at once."""

    text_budget_s: float = Field(10.0, gt=0, le=3600)
    """Most time that the labels of one request which were not seen before may take; more belong into a label set."""

    max_images: int = Field(32, ge=1, le=1000)
    """Most images a request to classify."""

    max_labels: int = Field(10_000, ge=1, le=100_000)
    """Most labels a request or a label set."""

    max_upload_bytes: int = Field(32 * 2**20, ge=1024, le=2**30)
    """Largest body with images or of a label set: two photographs of 12 megapixels in base64 are some 16 MB."""

    max_image_pixels: int = Field(50_000_000, ge=1, le=2**26)
    """Most pixels an image: a file of kilobytes may claim to hold gigabytes of them, and a decoder takes 4 to 12 bytes for each."""

    label_cache_mib: int = Field(256, ge=1, le=1_048_576)
    """Most memory of a worker for embeddings of labels, and most disk: 10,000 labels of 512 numbers take 20 MB twice."""

    state_dir: Path | None = None
    """Folder that the workers of a pod share, for label sets and embeddings of labels; without it, one of the user's own below the
    system's temporary folder."""

    token_file: Path | None = None
    """File with the bearer tokens that callers must show, one a line; without it everybody is answered."""

    reload_s: float = Field(0.0, ge=0, le=86_400)
    """How often to look whether a bundle was replaced; 0 never looks."""

    drain_s: float = Field(2.0, ge=0, le=600)
    """After SIGTERM, how long requests are still taken while ``/readyz`` says no: the time in which routers notice."""

    grace_s: float = Field(10.0, gt=0, le=600)
    """After that, how long answers under way may take before the worker ends all the same."""

    trace_sample_rate: float = Field(0.0, ge=0, le=1)
    """Share of requests that are traced where the caller does not say; above 0 traces are exported by OTLP, at 0 none are."""

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Least severe level that is logged."""

    @field_validator("bundle")
    @classmethod
    def _names_a_bundle(cls, value: str) -> str:
        if not value.replace(",", "").strip():
            raise ValueError("it must name at least one bundle")
        return value

    @field_validator("bundle_sha256")
    @classmethod
    def _pins_bundles(cls, value: str | None, info: ValidationInfo) -> str | None:
        for checksum in _split(value or ""):
            if checksum and not re.fullmatch("[0-9a-f]{64}", checksum):
                raise ValueError(f"{checksum[:80]!r} is no SHA-256, which has 64 hexadecimal digits in lower case")
        bundles = [reference for reference in _split(info.data.get("bundle", "")) if reference]
        if value and bundles and len(_split(value)) != len(bundles):
            raise ValueError(f"there are {len(_split(value))} checksums for {len(bundles)} bundles")
        return value or None

    @property
    def bundles(self) -> tuple[str, ...]:
        """The references to bundles."""
        return tuple(reference for reference in _split(self.bundle) if reference)

    @property
    def bundle_checksums(self) -> tuple[str | None, ...]:
        """What each of `bundles`' manifests must hash to; None where any will do."""
        if self.bundle_sha256 is None:
            return (None,) * len(self.bundles)
        return tuple(checksum or None for checksum in _split(self.bundle_sha256))

    @property
    def threads_a_worker(self) -> int:
        """Threads of one run."""
        return self.threads or max(1, usable_cores() // self.workers)


def load_settings() -> ServiceSettings:
    """Read the settings from the environment.

    Raises
    ------
    SettingsError
        Naming the variable, its value and its bounds.
    """
    try:
        return ServiceSettings()
    except ValidationError as error:
        lines = "; ".join(f"PILOTAGE_{'_'.join(map(str, e['loc'])).upper()}={e.get('input')!r}: {e['msg']}" for e in error.errors())
        raise SettingsError(lines) from error


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]
