"""What is optimized, whatever model it is: a graph, the data that judges it, and the feeds that it is timed on.

Letters: ``B`` examples of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from optimize.passes.base import Feeds
from optimize.search.cache import digest_of, feeds_digest
from optimize.search.metrics import METRICS, Answers, MetricName
from serving.contract.errors import PilotageError
from serving.contract.manifest import Signature
from serving.runtime.session import GraphSession


class SubjectError(PilotageError):
    """A model or data that no search can be made with; the message says what is wrong with it."""


@dataclass(frozen=True)
class Part:
    """Data of one purpose.

    Attributes
    ----------
    feeds
        Runs that together answer for all examples, in order; the graph's first output has one row an example.
    label
        ``(B,)``, or None where answers are only compared with the reference's.
    known_as
        A fingerprint that the data has already.
    head
        From what all runs gave, joined, to ``(B, …)`` answers, where the graph is half of a model; `known_as` must tell of it.
    """

    feeds: tuple[Feeds, ...]
    label: npt.NDArray[Any] | None = None
    known_as: str = ""
    head: Callable[[Answers], Answers] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """What it is known as, or a digest of feeds and labels."""
        if self.known_as:
            return self.known_as
        label = b"" if self.label is None else np.ascontiguousarray(self.label).tobytes()
        return digest_of(label, *(feeds_digest(feeds).encode() for feeds in self.feeds))

    def answers(self, session: GraphSession, on_run: Callable[[float], None] = lambda _: None) -> Answers:
        """Run all feeds; the first output, ``(B,)`` or ``(B, …)``, or what `head` makes of it."""
        chunks = []
        for done, feeds in enumerate(self.feeds, 1):
            chunks.append(session.run(feeds)[0])
            on_run(done / len(self.feeds))
        joined = np.concatenate(chunks)
        return joined if self.head is None else self.head(joined)


@dataclass(frozen=True)
class Agreement:
    """How far the graph's answers are from those of the model that it was exported from.

    Attributes
    ----------
    size
        Candidates, or examples, of the run.
    """

    size: int
    max_difference: float


def _no_metrics(label: npt.NDArray[Any] | None, answers: Answers) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Subject:
    """A model to optimize.

    Attributes
    ----------
    name, data
        For the report.
    family
        Which list of `optimize.search.candidates` is tried.
    validation, test
        The first chooses, the second is only reported.
    timing
        Size → feeds of one run; `decisive_size` is the one at which latency decides, `size_unit` what a size counts.
    calibration
        Feeds of runs as the model will serve them; best none that is judged.
    metrics
        Further metrics for the report, from labels and answers; the one of the budget comes by itself.
    parity, parity_tolerance
        What export found.
    """

    name: str
    data: str
    family: str
    reference: onnx.ModelProto
    validation: Part
    test: Part
    timing: Mapping[int, Feeds]
    decisive_size: int
    calibration: Sequence[Feeds] = ()
    size_unit: str = "examples"
    metrics: Callable[[npt.NDArray[Any] | None, Answers], dict[str, float]] = field(default=_no_metrics)
    signature: Signature | None = None
    parity: tuple[Agreement, ...] = ()
    parity_tolerance: float = 0.0

    @cached_property
    def digest(self) -> str:
        """Of the reference graph, weights included."""
        return digest_of(self.reference.SerializeToString(deterministic=True))

    @cached_property
    def calibration_digest(self) -> str:
        """Of the calibration feeds."""
        return digest_of(*(feeds_digest(feeds).encode() for feeds in self.calibration))

    def require(self, metric: MetricName) -> None:
        """Check that a search can be made.

        Raises
        ------
        SubjectError
            Naming what is missing.
        """
        if self.decisive_size not in self.timing:
            raise SubjectError(f"there are no feeds of {self.decisive_size} {self.size_unit}, at which latency is to decide")
        for called, part in (("validation", self.validation), ("test", self.test)):
            if not part.feeds:
                raise SubjectError(f"the {called} part is empty")
            if METRICS[metric].needs_label and part.label is None:
                raise SubjectError(f"the {called} part has no labels; {metric} needs them, cosine does not")
