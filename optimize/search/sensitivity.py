"""Which layers quantization hurts: each linear layer alone in dynamic int8, all others as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from optimize.export.files import save_graph
from optimize.passes.base import PassNotApplicable
from optimize.passes.editing import Edit
from optimize.passes.int8_dynamic import DynamicLayers
from optimize.passes.int8_layers import Weights, layers_to_quantize, name_of, quantize
from optimize.search.metrics import Metric
from optimize.search.report import LayerSensitivity
from optimize.search.subject import Part
from serving.runtime.session import GraphSession

MOST_LAYERS = 24
"""The largest ones, which have the most to win; a tower of 12 blocks has 48 linear layers, and each costs a build."""


def sensitivities(
    model: onnx.ModelProto, part: Part, metric: Metric, threads: int, progress: Callable[[str, float], None]
) -> list[LayerSensitivity]:
    """Change of the metric on the first run's examples of `part` for each layer, in the graph's order."""
    try:
        layers = layers_to_quantize(Edit(model))
    except PassNotApplicable:
        return []
    sizes = {name_of(layer): int(layer.weight.size) for layer in layers}
    chosen = sorted(sorted(sizes, key=lambda name: -sizes[name])[:MOST_LAYERS], key=list(sizes).index)
    first = part.feeds[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        save_graph(model, path)
        before = GraphSession(path, threads=threads).run(first)[0]
        label = None if part.label is None else part.label[: len(before)]
        reference = metric.losses(label, before, before)
        found = []
        for number, name in enumerate(chosen):
            progress(f"sensitivity of {name}", number / len(chosen))
            edit = Edit(model)
            quantize(
                edit, [layer for layer in layers_to_quantize(edit) if name_of(layer) == name], DynamicLayers(edit, Weights(edit)).build
            )
            save_graph(edit.done(), path)
            after = GraphSession(path, threads=threads).run(first)[0]
            worse = float((metric.losses(label, after, before) - reference).mean())
            share = float(reference.mean()) if metric.relative else 1.0
            changed = metric.factor * worse / share if share > 0 else 0.0
            most = float(np.abs(after - before).max())
            found.append(LayerSensitivity(layer=name, weights=sizes[name], change=changed, max_difference=most))
    return found
