"""Whether the exported graph answers as the torch model does.

Letters: ``N`` candidates of one request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from optimize.data.interactions import Interactions
from optimize.export.feeds import request_feeds
from optimize.export.to_onnx import ExportError
from optimize.features.encode import encode
from optimize.models.base import RankingModel
from serving.contract.fields import REQUEST_INDEX
from serving.runtime.session import GraphSession

BATCH_SIZES = (1, 3, 64)

TOLERANCE = 1e-5
"""Largest difference of two probabilities. The two runtimes sum the same float32 products in different orders; a sum of
n terms then differs by up to ``n * 2**-24`` of the sum of magnitudes (Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, section 4.2). The widest layers here have some 1,000 inputs: 6e-5 in a logit of magnitude 1 at worst,
a quarter of it in the probability, and rounding errors that cancel leave well under 1e-5. Trained models measured 1e-7 to 3e-6."""


@dataclass(frozen=True)
class Parity:
    """Largest difference of probabilities at one number of candidates."""

    candidates: int
    max_difference: float


def check_parity(model: RankingModel, session: GraphSession, data: Interactions, sizes: Sequence[int] = BATCH_SIZES) -> list[Parity]:
    """Compare graph and model on real rows.

    Parameters
    ----------
    data
        Interactions; row 0 gives the user and context, the first N rows the candidates.

    Raises
    ------
    ExportError
        Somewhere the two differ by more than `TOLERANCE`.
    """
    results = []
    for size in sizes:
        feeds = request_feeds(model.spec, data, np.arange(size) % len(data))
        graph = session.run(feeds)[0]
        index = feeds[REQUEST_INDEX]
        spread = {field.name: feeds[field.name] if field.part == "candidate" else feeds[field.name][index] for field in model.spec.fields}
        encoded = encode(model.spec, spread)
        with torch.inference_mode():
            logits = model.interaction_logits(
                {name: torch.from_numpy(rows) for name, rows in encoded.rows.items()},
                {name: torch.from_numpy(numbers) for name, numbers in encoded.numbers.items()},
            )
            expected = torch.sigmoid(model.scale * logits + model.offset).numpy()
        difference = float(np.max(np.abs(graph - expected)))
        if not difference <= TOLERANCE:
            raise ExportError(f"at {size} candidates graph and model differ by {difference:.2e} in probability, more than {TOLERANCE:.0e}")
        results.append(Parity(size, difference))
    return results
