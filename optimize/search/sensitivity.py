"""Which layers quantization hurts: each linear layer alone in dynamic int8, all others as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from optimize.passes.base import PassNotApplicable
from optimize.passes.editing import Edit
from optimize.passes.int8_layers import layers_to_quantize, name_of
from optimize.passes.trials import float_outputs, trial
from optimize.search.metrics import Metric
from optimize.search.report import LayerSensitivity
from optimize.search.subject import Part

MOST_LAYERS = 64
"""The largest ones, which have the most to win; a tower of 12 blocks has some 50, and each costs a run of both forms of all of them."""


def sensitivities(model: onnx.ModelProto, part: Part, metric: Metric, progress: Callable[[str, float], None]) -> list[LayerSensitivity]:
    """Change of the metric on the first run's examples of `part` for each layer, in the graph's order."""
    try:
        layers = layers_to_quantize(Edit(model))
    except PassNotApplicable:
        return []
    if float_outputs(model)[:1] != [model.graph.output[0].name]:
        return []
    names, sizes = [name_of(layer) for layer in layers], [int(layer.weight.size) for layer in layers]
    chosen = sorted(sorted(range(len(sizes)), key=lambda number: -sizes[number])[:MOST_LAYERS])
    first = part.feeds[0]
    found = []
    with trial(model, "int8_dynamic", [first], {}) as trying:
        before = trying.expected[0][0]
        label = None if part.label is None else part.label[: len(before)]
        reference = metric.losses(label, before, before)
        for done, number in enumerate(chosen):
            progress(f"sensitivity of {names[number]}", done / len(chosen))
            after = trying.answers(0, {number})[0]
            worse = float((metric.losses(label, after, before) - reference).mean())
            share = float(reference.mean()) if metric.relative else 1.0
            changed = metric.factor * worse / share if share > 0 else 0.0
            most = float(np.abs(after - before).max())
            found.append(LayerSensitivity(layer=names[number], weights=sizes[number], change=changed, max_difference=most))
    return found
