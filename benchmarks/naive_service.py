"""The rival: the ranking service that a competent user writes in an afternoon with BentoML, scikit-learn and PyTorch.

Choices, each the kind one in doubt:

* ``@bentoml.service`` and ``@bentoml.api`` as BentoML's tutorials have them, every setting at its default: JSON through the
  standard library and pydantic, access log, metrics and tracing on. The API is a plain ``def``, run in BentoML's thread pool.
* Features by scikit-learn's `FeatureHasher`, one a field, so that each field has its own embedding table. Values of the
  user and the context are hashed once a request, not once a candidate.
* The model in eager PyTorch under ``torch.inference_mode``, all candidates in one forward pass, the user's indices repeated
  beside each candidate: that is how such a model is trained, one interaction a row.
* Lists through `nn.EmbeddingBag` straight from the hasher's sparse matrix, without padding.
* PyTorch's threads are set to the number that Pilotage's session gets in the same run.
* The answer has all candidates with their probabilities, best first. No value is validated beyond the JSON types, no
  request id, no check for numbers that are not finite: the rival does less than Pilotage here.

It is read from a folder that `benchmarks.seeded` wrote; being generic in the specification costs it nothing a request that
hand-written fields would not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
import torch

from benchmarks.naive_model import load_naive

FOLDER_VARIABLE = "NAIVE_MODEL"
THREADS_VARIABLE = "NAIVE_THREADS"


@bentoml.service(name="naive-ranking")
class NaiveService:
    """Rank candidates."""

    def __init__(self) -> None:
        folder = Path(os.environ[FOLDER_VARIABLE])
        torch.set_num_threads(int(os.environ[THREADS_VARIABLE]))
        self.features, self.model = load_naive(folder)

    @bentoml.api  # type: ignore[untyped-decorator]
    def rank(self, user: dict[str, Any], context: dict[str, Any], candidates: list[dict[str, Any]]) -> dict[str, Any]:
        """Return all candidates, best first."""
        with torch.inference_mode():
            probabilities = self.model(*self.features(user, context, candidates))
            order = torch.argsort(probabilities, descending=True)
        scores = probabilities.tolist()
        return {"ranking": [{"id": candidates[i]["id"], "probability": scores[i]} for i in order.tolist()]}
