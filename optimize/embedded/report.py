"""``report.json``: how the embedded CLIP was trained and how well it does on what it has never seen."""

from __future__ import annotations

import math

from pydantic import AwareDatetime, BaseModel, ConfigDict

from optimize.models.clip_small import ClipSmallSettings
from optimize.search.machine import Machine
from optimize.training.contrastive import ContrastiveSettings, Epoch

REPORT_NAME, PAGE_NAME = "report.json", "report.html"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SuiteResult(_Frozen):
    """Accuracy of every variant on one suite of the test part."""

    name: str
    question: str
    pictures: int
    choices: int
    """Labels that a picture is compared with."""
    accuracy: dict[str, float]
    """Variant → share of pictures with the right label."""

    @property
    def chance(self) -> float:
        """What guessing gets."""
        return 1 / self.choices

    def interval(self, variant: str) -> tuple[float, float]:
        """95 % interval of an accuracy (Wilson 1927), pictures taken as independent."""
        return wilson(self.accuracy[variant], self.pictures)


class Confusion(_Frozen):
    """Which label was chosen for which, on one suite.

    Attributes
    ----------
    counts
        Row: the right label; column: the chosen one.
    """

    suite: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def worst(self, most: int) -> list[tuple[str, str, int, int]]:
        """The most frequent mistakes: right label, chosen label, how often, of how many."""
        wrong = [
            (right, self.labels[column], count, sum(row))
            for at, (right, row) in enumerate(zip(self.labels, self.counts, strict=True))
            for column, count in enumerate(row)
            if column != at and count
        ]
        return sorted(wrong, key=lambda found: -found[2])[:most]


class Sample(_Frozen):
    """A test picture with the labels that came out best."""

    picture: str
    """PNG as a data URI."""
    right: str
    answers: tuple[tuple[str, float], ...]


class VariantSize(_Frozen):
    """Bytes of the two graphs of a variant."""

    image_bytes: int
    text_bytes: int


class ClipReport(_Frozen):
    """All of it."""

    schema_version: int = 1
    created_at: AwareDatetime
    seed: int
    model: ClipSmallSettings
    training: ContrastiveSettings
    epochs: tuple[Epoch, ...]
    training_fingerprint: str
    test_fingerprint: str
    logit_scale: float
    parameters: int
    vocabulary: int
    chosen: str
    reason: str
    validation: dict[str, float]
    """Variant → accuracy on the suite ``colours`` of the validation part, by which the variant was chosen."""
    suites: tuple[SuiteResult, ...]
    confusion: Confusion
    samples: tuple[Sample, ...]
    sizes: dict[str, VariantSize]
    parity: float
    """Largest difference between torch and the float32 graphs, as a share of the largest value."""
    machine: Machine
    versions: dict[str, str]
    seconds: dict[str, float]
    """Stage → wall time."""

    def suite(self, name: str) -> SuiteResult:
        """The suite called `name`."""
        return next(suite for suite in self.suites if suite.name == name)


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a binomial share (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
