"""Interactions → what a ranking graph takes in one run.

Letters: ``N`` candidates of one request.
"""

from __future__ import annotations

import numpy as np

from optimize.data.interactions import Interactions
from serving.contract.fields import REQUEST_INDEX, FeatureSpec
from serving.features.columns import Feeds


def request_feeds(spec: FeatureSpec, data: Interactions, candidates: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Feeds:
    """Feeds of one request: the user and context of the first row, the candidates of all rows named.

    Parameters
    ----------
    candidates
        ``(N,) int64`` rows of `data`.
    """
    feeds: Feeds = {
        field.name: data.columns[field.name][candidates if field.part == "candidate" else candidates[:1]] for field in spec.fields
    }
    feeds[REQUEST_INDEX] = np.zeros(len(candidates), np.int64)
    return feeds
