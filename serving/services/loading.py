"""From a bundle on disk to a warm model, by its family."""

from __future__ import annotations

from collections.abc import Callable

from serving.clip.admission import Admission
from serving.clip.classifier import Classifier
from serving.clip.images import ImageReader
from serving.clip.label_book import LabelBook
from serving.clip.label_store import LabelStore
from serving.clip.requests import ClassifyTypes
from serving.clip.towers import Towers
from serving.contract.bundle import Bundle, ClipBundle, RankingBundle
from serving.monitoring.metrics import ServiceMetrics
from serving.ranking.ranker import Ranker
from serving.runtime.run_queue import RunQueue
from serving.services.served import ClipModel, RankingModel, ServedModel
from serving.services.settings import ServiceSettings
from serving.services.state import State

WARM_UP_SIZES = (1, 10, 100, 200, 500, 1000)

MIB = 2**20

Post = Callable[..., None]
"""Calls a function on the event loop, from any thread: metrics are counted there."""


def open_model(bundle: Bundle, settings: ServiceSettings, metrics: ServiceMetrics, state: State, post: Post) -> ServedModel:
    """Load and warm the model of a checked bundle.

    Raises
    ------
    BundleError, SettingsError
        It cannot be loaded.
    """
    if isinstance(bundle, ClipBundle):
        return _open_clip(bundle, settings, metrics, state, post)
    return _open_ranking(bundle, settings, metrics)


def _open_ranking(bundle: RankingBundle, settings: ServiceSettings, metrics: ServiceMetrics) -> RankingModel:
    ranker = Ranker(
        bundle,
        threads=settings.threads_a_worker,
        max_candidates=settings.max_candidates,
        provider=settings.provider,
        arena_mib=settings.arena_mib,
    )
    largest = settings.max_candidates
    cost = ranker.warm_up([*(size for size in WARM_UP_SIZES if size < largest), largest])
    bound = metrics.bind_ranking(bundle.manifest.name, bundle.manifest.version)
    queue = RunQueue(ranker.score, cost, objective_s=settings.objective_ms / 1e3, max_units=settings.max_candidates, on_run=bound.ran)
    return RankingModel(ranker, queue, bound)


def _open_clip(bundle: ClipBundle, settings: ServiceSettings, metrics: ServiceMetrics, state: State, post: Post) -> ClipModel:
    towers = Towers(bundle, threads=settings.threads_a_worker, provider=settings.provider, arena_mib=settings.arena_mib)
    reader = ImageReader(towers.spec.image, max_bytes=settings.max_upload_bytes, max_pixels=settings.max_image_pixels)
    bound = metrics.bind_clip(bundle.manifest.name, bundle.manifest.version)
    cache_bytes = settings.label_cache_mib * MIB
    store = LabelStore(state.embeddings, towers.fingerprint, towers.spec.embedding_size, cache_bytes)
    classifier = Classifier(
        towers,
        reader,
        LabelBook(towers.fingerprint, store, cache_bytes),
        state.label_sets,
        state.locks,
        text_budget_s=settings.text_budget_s,
        on_run=lambda jobs: post(bound.ran, jobs),
    )
    admission = Admission(classifier.image_cost, settings.classify_objective_ms / 1e3)
    return ClipModel(classifier, admission, ClassifyTypes(settings.max_images, settings.max_labels), bound)
