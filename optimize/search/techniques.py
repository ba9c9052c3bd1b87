"""The five techniques, and what each brought to this model on this machine: measured, or said not to be measurable apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optimize.search.loops import LARGE, SMALL, Rates
from optimize.search.machine import Machine
from optimize.search.measure import Samples, measure, summary
from optimize.search.plain_sessions import PlainSession
from optimize.search.report import CandidateRecord, Technique
from optimize.search.subject import Subject

ROUNDS = 20

QUANTIZING = frozenset(
    {"fp16", "bf16", "int8_dynamic", "int8_static", "mixed_precision", "smooth_quant", "table_bits", "table_fp16", "weight_only"}
)
"""Kinds of passes that store or compute with fewer bits."""


def arms(subject: Subject, reference: Path, chosen: Path, cores: int, seed: int) -> dict[str, float]:
    """Median milliseconds of one run at the decisive size, all in turn."""
    sessions = {
        "chosen, 1 thread": PlainSession(chosen, threads=1),
        "as exported, no fusion by the runtime": PlainSession(reference, threads=1, optimized=False),
        "as exported, 1 thread": PlainSession(reference, threads=1),
        "chosen, no fusion by the runtime": PlainSession(chosen, threads=1, optimized=False),
    }
    if cores > 1:
        sessions["chosen, 2 threads"] = PlainSession(chosen, threads=2)
    size = subject.decisive_size
    taken: Samples = measure(sessions, {size: subject.timing[size]}, rounds=ROUNDS, seed=seed)
    return {name: summary(size, values).p50_ms for (name, _), values in taken.items()}


def techniques(
    records: Sequence[CandidateRecord], chosen: CandidateRecord, times: Mapping[str, float], rates: Rates, machine: Machine, unit: str
) -> tuple[Technique, ...]:
    """One entry a technique."""
    return (
        _batching(chosen, times, machine, unit),
        _vectorization(rates, machine),
        _tiling(rates),
        _fusion(times),
        _quantization(records, chosen, machine),
    )


def _batching(chosen: CandidateRecord, times: Mapping[str, float], machine: Machine, unit: str) -> Technique:
    sizes = sorted(chosen.latency, key=lambda latency: latency.size)
    each = {f"µs for each of {latency.size} {unit}": 1e3 * latency.p50_ms / latency.size for latency in sizes}
    gain = next(iter(each.values())) / list(each.values())[-1]
    one, two = times["chosen, 1 thread"], times.get("chosen, 2 threads")
    measured = {**each, "ms with 1 thread": one}
    threads = "This machine has one core: threads were not compared."
    if two is not None:
        measured["ms with 2 threads"] = two
        threads = f"A run on two threads is {one / two:.2f}× as fast as on one."
    return Technique(
        name="Batching and parallelization",
        headline=f"{gain:.1f}× less time for each of {sizes[-1].size} in one run than for one alone",
        measured=measured,
        words=f"One run answers for many, so that what a run costs by itself is paid once. {threads}",
    )


def _vectorization(rates: Rates, machine: Machine) -> Technique:
    return Technique(
        name="Vectorization",
        headline=f"{rates.vectors:.0f}× a loop without vector units",
        measured={
            f"plain loop, {SMALL} × {SMALL} weights, GFLOP/s": rates.plain_small,
            f"ONNX Runtime, {SMALL} × {SMALL} weights, GFLOP/s": rates.runtime_small,
        },
        words=(
            f"CPU flags that decide the kernels: {', '.join(machine.flags) or 'none that matter'}. The kernels cannot be run without "
            "their vector units, so this compares a matrix product in them with a compiled loop that handles one number at a time, on "
            "weights that stay in the first cache. It is in every time of this report, before and after."
        ),
    )


def _tiling(rates: Rates) -> Technique:
    kept_plain, kept = rates.plain_large / rates.plain_small, rates.runtime_large / rates.runtime_small
    return Technique(
        name="Loop tiling",
        headline=f"{rates.tiles:.1f}× on weights that no near cache holds",
        measured={
            f"plain loop, {LARGE} × {LARGE} weights, GFLOP/s": rates.plain_large,
            f"ONNX Runtime, {LARGE} × {LARGE} weights, GFLOP/s": rates.runtime_large,
        },
        words=(
            f"From {SMALL} × {SMALL} to {LARGE} × {LARGE} weights a plain loop keeps {kept_plain:.0%} of its rate, ONNX Runtime "
            f"{kept:.0%}: it packs weights into tiles that fit the caches. Tiling cannot be switched off in the runtime, nor told apart "
            "inside this model's own time; this is the same kernel on products of two sizes."
        ),
    )


def _fusion(times: Mapping[str, float]) -> Technique:
    before = times["as exported, no fusion by the runtime"] / times["as exported, 1 thread"]
    after = times["chosen, no fusion by the runtime"] / times["chosen, 1 thread"]
    return Technique(
        name="Operator fusion",
        headline=f"{after:.2f}× on the chosen graph, {before:.2f}× on the exported one",
        measured={f"ms, {name}": value for name, value in times.items() if "2 threads" not in name},
        words=(
            "The same graph with and without ONNX Runtime's graph optimizations, which fuse and fold when it loads. What our own "
            "fusing passes add is in the table of candidates."
        ),
    )


def _quantization(records: Sequence[CandidateRecord], chosen: CandidateRecord, machine: Machine) -> Technique:
    timed = {c.name: c.latency[-1].p50_ms for c in records if c.latency and c.refused is None}
    reduced = {c.name for c in records if any(name.partition(":")[0] in QUANTIZING for name in c.passes)}
    full = min((ms, name) for name, ms in timed.items() if name not in reduced)
    size = {c.name: c.size_bytes or 0 for c in records}
    measured = {f"ms, {full[1]} (fastest in float32)": full[0], f"MB, {full[1]}": size[full[1]] / 1e6}
    kept = [(ms, name) for name, ms in timed.items() if name in reduced]
    if not kept:
        headline = "nothing: no quantized variant kept the budget"
    else:
        best = min(kept)
        measured |= {f"ms, {best[1]} (fastest with fewer bits)": best[0], f"MB, {best[1]}": size[best[1]] / 1e6}
        headline = f"{full[0] / best[0]:.2f}× the speed, {size[full[1]] / max(1, size[best[1]]):.1f}× less file"
    dot = any("vnni" in flag or "int8" in flag or flag == "i8mm" for flag in machine.flags)
    cpu = "has an instruction" if dot else "has no instruction"
    return Technique(
        name="Quantization",
        headline=headline,
        measured=measured,
        words=(
            "The fastest variant inside the budget that stores or computes with fewer bits, beside the fastest that does neither. "
            f"This CPU {cpu} for dot products of 8-bit integers."
        ),
    )
