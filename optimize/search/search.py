"""The search: build candidates, check, score and time them, choose the fastest inside the accuracy budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from optimize.data.interactions import Interactions
from optimize.export.files import files_of, save_graph
from optimize.export.parity import TOLERANCE, check_parity, request_feeds
from optimize.export.to_onnx import export_ranking
from optimize.models.base import RankingModel
from optimize.passes.base import Pass, PassNotApplicable
from optimize.passes.fp16 import Fp16
from optimize.passes.int8_dynamic import Int8Dynamic
from optimize.search.budget import NeChange, ne_change
from optimize.search.machine import describe_machine, package_versions
from optimize.search.measure import measure
from optimize.search.report import CandidateRecord, OptimizeReport
from optimize.training.metrics import evaluate
from serving.contract.errors import PilotageError
from serving.contract.fields import REQUEST_INDEX
from serving.contract.manifest import ranking_signature
from serving.runtime.session import GraphSession

REFERENCE = "fp32"
SIZES = (1, 100, 500)
DECISIVE_SIZE = 500
"""Candidates at which latency decides: the largest size, where the graph and not the overhead is measured."""

SCORING_ROWS = 4096
TIE_PCT = 3.0
"""Variants within 3 % of the fastest count as equally fast: medians of repeated searches on one machine moved by that
much. Among them the one with the fewest passes wins: a change must earn its place."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes
    ----------
    max_ne_increase_pct
        Accuracy budget: the upper end of the NE change's interval may not exceed it.
    threads
        Threads of a run, those that the service will use.
    rounds
        Interleaved timing rounds.
    """

    max_ne_increase_pct: float = 0.1
    threads: int = 1
    rounds: int = 60
    seed: int = 0


@dataclass(frozen=True)
class _Variant:
    name: str
    passes: tuple[Pass, ...]

    @property
    def changes(self) -> str:
        return "; ".join(p.changes for p in self.passes) or "as exported"


VARIANTS = (_Variant(REFERENCE, ()), _Variant("fp16", (Fp16(),)), _Variant("int8_dynamic", (Int8Dynamic(),)))

Progress = Callable[[str, float], None]


def search(
    model: RankingModel,
    validation: Interactions,
    test: Interactions,
    run: str,
    data: str,
    folder: Path,
    settings: SearchSettings,
    progress: Progress,
) -> OptimizeReport:
    """Build every variant in `folder` (``NAME.onnx``, and its weights), judge it on `validation`, report it on `test`.

    Parameters
    ----------
    run, data
        Names for the report.

    Raises
    ------
    ExportError
        The model cannot be exported, or the graph does not answer like the model.
    PilotageError
        The data is too small for the sizes that are timed.
    """
    if len(validation) < DECISIVE_SIZE:
        raise PilotageError(f"the validation part has {len(validation)} interactions, timing {DECISIVE_SIZE} candidates needs as many")
    progress("exporting", 0.0)
    exported = export_ranking(model)
    progress("building variants", 0.3)
    sessions: dict[str, GraphSession] = {}
    refusals: dict[str, str] = {}
    for variant in VARIANTS:
        try:
            sessions[variant.name] = _build(variant, exported, model, folder, settings.threads)
        except PassNotApplicable as error:
            refusals[variant.name] = f"does not apply: {error}"
        except Exception as error:
            if variant.name == REFERENCE:
                raise
            refusals[variant.name] = f"could not be built: {type(error).__name__}: {error}"
    parity = check_parity(model, sessions[REFERENCE], validation)

    progress("scoring variants", 0.45)
    on_validation = {name: score(session, validation) for name, session in sessions.items()}
    on_test = {name: score(session, test) for name, session in sessions.items()}
    changes: dict[str, NeChange] = {}
    for name, probabilities in on_validation.items():
        if not np.isfinite(probabilities).all():
            refusals[name] = "gives probabilities that are not finite"
        elif name != REFERENCE:
            changes[name] = ne_change(validation.label, on_validation[REFERENCE], probabilities, settings.seed)
            if not changes[name].is_within(settings.max_ne_increase_pct):
                refusals[name] = f"NE worse by up to {changes[name].high_pct:.3f} %, the budget is {settings.max_ne_increase_pct} %"

    feeds = {size: request_feeds(model.spec, validation, np.arange(size)) for size in SIZES}

    def on_round(done: int) -> None:
        progress(f"timing variants: round {done} of {settings.rounds}", 0.6 + 0.4 * done / settings.rounds)

    latencies = measure(sessions, feeds, rounds=settings.rounds, seed=settings.seed, on_round=on_round)
    candidates = tuple(
        CandidateRecord(
            name=variant.name,
            passes=tuple(p.name for p in variant.passes),
            changes=variant.changes,
            size_bytes=_size_bytes(sessions[variant.name].path) if variant.name in sessions else None,
            ne_change=changes.get(variant.name),
            validation=_metrics(validation, on_validation.get(variant.name)),
            test=_metrics(test, on_test.get(variant.name)),
            latency=tuple(latencies.get(variant.name, ())),
            refused=refusals.get(variant.name),
        )
        for variant in VARIANTS
    )
    chosen, reason = choose(candidates)
    return OptimizeReport(
        created_at=datetime.now(UTC),
        run=run,
        data=data,
        rows={"validation": len(validation), "test": len(test)},
        fingerprints={"validation": validation.fingerprint(), "test": test.fingerprint()},
        max_ne_increase_pct=settings.max_ne_increase_pct,
        parity_tolerance=TOLERANCE,
        parity=tuple(parity),
        decisive_candidates=DECISIVE_SIZE,
        candidates=candidates,
        chosen=chosen,
        reason=reason,
        machine=describe_machine(settings.threads),
        versions=package_versions(),
    )


def score(session: GraphSession, data: Interactions) -> npt.NDArray[np.float32]:
    """Probabilities ``(B,) float32`` of interactions, each its own request."""
    names = [tensor.name for tensor in session.signature.inputs if tensor.name != REQUEST_INDEX]
    chunks = []
    for start in range(0, len(data), SCORING_ROWS):
        feeds = {name: data.columns[name][start : start + SCORING_ROWS] for name in names}
        feeds[REQUEST_INDEX] = np.arange(len(feeds[names[0]]), dtype=np.int64)
        chunks.append(session.run(feeds)[0])
    return np.concatenate(chunks)


def choose(candidates: Sequence[CandidateRecord]) -> tuple[str, str]:
    """Pick the fastest candidate that was not refused; among ties of `TIE_PCT`, the fewest passes, then the smallest file.

    Returns
    -------
    tuple
        The name, and the reason in a sentence.
    """
    allowed = [c for c in candidates if c.refused is None]
    fastest = min(allowed, key=_decisive_ms)
    tied = [c for c in allowed if _decisive_ms(c) <= _decisive_ms(fastest) * (1 + TIE_PCT / 100)]
    chosen = min(tied, key=lambda c: (len(c.passes), c.size_bytes or 0))
    reason = f"{chosen.name} takes {_decisive_ms(chosen):.2f} ms for {DECISIVE_SIZE} candidates"
    if chosen.name != REFERENCE:
        reference = next(c for c in candidates if c.name == REFERENCE)
        reason += f", {_decisive_ms(reference) / _decisive_ms(chosen):.2f}× as fast as {REFERENCE}"
    others = [c.name for c in tied if c is not chosen]
    if others:
        reason += f"; {' and '.join(others)} {'is' if len(others) == 1 else 'are'} as fast within {TIE_PCT:g} %, but changed more"
    return chosen.name, reason


def _decisive_ms(candidate: CandidateRecord) -> float:
    return next(latency.p50_ms for latency in candidate.latency if latency.candidates == DECISIVE_SIZE)


def _size_bytes(graph: Path) -> int:
    return sum(file.stat().st_size for file in files_of(graph))


def _build(variant: _Variant, exported: onnx.ModelProto, model: RankingModel, folder: Path, threads: int) -> GraphSession:
    graph = exported
    for step in variant.passes:
        graph = step.apply(graph)
    path = folder / f"{variant.name}.onnx"
    save_graph(graph, path)
    session = GraphSession(path, threads=threads)
    session.require(ranking_signature(model.spec))
    return session


def _metrics(data: Interactions, probabilities: npt.NDArray[np.float32] | None) -> dict[str, float]:
    if probabilities is None or not np.isfinite(probabilities).all():
        return {}
    return evaluate(data.label, probabilities, data.group)
