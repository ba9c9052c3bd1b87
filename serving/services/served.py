"""A loaded, warm model of each family, with what stands before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any, ClassVar

from serving.clip.admission import Admission, Ticket
from serving.clip.classifier import Classifier
from serving.clip.requests import ClassifyTypes
from serving.contract.manifest import ClipManifest, RankingManifest
from serving.features.columns import Encoded
from serving.monitoring.metrics import BoundMetrics
from serving.ranking.ranker import Ranker
from serving.runtime.run_queue import RunQueue
from serving.services.forms import ArrowForm, InferForm, JsonForm, Probabilities

COST_SIZES = (1, 10, 100, 200, 500, 1000)
"""Candidates whose predicted run is logged."""


CLOSE_S = 2.0
"""Longest wait for the last step of the towers; steps of texts take some 50 ms."""


class ServedModel(ABC):
    """One version of one model, warm.

    Attributes
    ----------
    family
        As in manifests.
    verb
        Last part of the path at which it is asked.
    """

    family: ClassVar[str]
    verb: ClassVar[str]

    def __init__(self, manifest: Any, metrics: BoundMetrics) -> None:
        self.manifest = manifest
        self.metrics = metrics
        self.loaded_at = datetime.now(UTC)

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether requests wait for their run on the event loop."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What ``/v1/models`` tells of this family beside what all have."""

    @abstractmethod
    def speed(self) -> dict[str, Any]:
        """What the log tells of its runs."""

    def retire(self) -> None:  # noqa: B027 - most families have nothing to end: requests hold their model until they are answered
        """Another version has its place: answer what is under way, then end."""

    def close(self) -> None:  # noqa: B027
        """The worker ends: nothing is under way any more."""


class RankingModel(ServedModel):
    """A model that ranks, with its queue."""

    family = "ranking"
    verb = "rank"
    manifest: RankingManifest

    def __init__(self, ranker: Ranker, queue: RunQueue[Encoded, Probabilities], metrics: BoundMetrics) -> None:
        super().__init__(ranker.manifest, metrics)
        self.ranker = ranker
        self.queue = queue
        self.json = JsonForm(ranker)
        self.arrow = ArrowForm(ranker)
        self.infer = InferForm(ranker)

    @property
    def is_busy(self) -> bool:
        """Whether requests wait for their run."""
        return self.queue.waiting > 0

    def about(self) -> dict[str, Any]:
        """The most candidates, and the feature specification."""
        return {"max_candidates": self.ranker.max_candidates, "features": self.manifest.features.model_dump(mode="json")}

    def speed(self) -> dict[str, Any]:
        """Predicted runs by candidates."""
        return {
            "threads": self.ranker.session.threads,
            "run_us_by_candidates": {size: round(self.queue.cost.predict(size) * 1e6) for size in COST_SIZES},
        }


class ClipModel(ServedModel):
    """A model that classifies images."""

    family = "clip"
    verb = "classify"
    manifest: ClipManifest

    def __init__(self, classifier: Classifier, admission: Admission, types: ClassifyTypes, metrics: BoundMetrics) -> None:
        super().__init__(classifier.towers.manifest, metrics)
        self.classifier = classifier
        self.admission = admission
        self.types = types
        self._retired = False

    @property
    def is_busy(self) -> bool:
        """Never: runs are on a thread of their own, and the loop reads on."""
        return False

    def release(self, ticket: Ticket) -> None:
        """A request was answered; with the last one of a retired model, its threads end."""
        self.admission.release(ticket)
        self._end_if_idle()

    def about(self) -> dict[str, Any]:
        """Limits of a request, and the specification."""
        return {
            "max_images": self.types.max_images,
            "max_labels": self.types.max_labels,
            "clip": self.manifest.clip.model_dump(mode="json"),
        }

    def speed(self) -> dict[str, Any]:
        """Predicted runs of both towers."""
        classifier = self.classifier
        return {
            "threads": classifier.towers.threads,
            "run_us_by_images": {size: round(classifier.image_cost.predict(size) * 1e6) for size in (1, 8)},
            "run_us_by_texts": {size: round(classifier.text_cost.predict(size) * 1e6) for size in (1, classifier.towers.texts_a_run)},
        }

    def retire(self) -> None:
        """End the threads when nothing is under way."""
        self._retired = True
        self._end_if_idle()

    def close(self) -> None:
        """End the threads: a run that is cut off by the end of the process may take it down."""
        self.classifier.close(CLOSE_S)

    def _end_if_idle(self) -> None:
        if self._retired and not self.admission.waiting:
            self.classifier.close()
