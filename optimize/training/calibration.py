"""Turning log-odds into probabilities that mean what they say.

References
----------
Platt, "Probabilistic Outputs for Support Vector Machines", 1999; He et al. 2014, section 6.3, for down-sampled negatives.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from serving.contract.manifest import Calibration

PRIOR_STRENGTH = 1e-3
"""Weight of a prior on scale 1: decides only when the data cannot, as with separable or constant log-odds."""


def fit(logit: npt.NDArray[np.floating[Any]], label: npt.NDArray[np.float32], negative_sampling_rate: float = 1.0) -> Calibration:
    """Fit ``sigmoid(scale * z + offset)`` by maximum likelihood.

    Parameters
    ----------
    logit, label
        ``(B,)`` of validation data with its natural share of negatives.
    negative_sampling_rate
        Share ``w`` of negatives that training kept. Training's log-odds are too high by ``-log w``, so ``log w`` is the
        starting point of the offset; what the fit changes beyond that is miscalibration.
    """
    z, y = logit.astype(np.float64), label.astype(np.float64)
    start = np.array([1.0, math.log(negative_sampling_rate)])
    unfitted = Calibration(method="none", scale=1.0, offset=float(start[1]), negative_sampling_rate=negative_sampling_rate)
    if not np.isfinite(z).all() or y.min() == y.max():
        return unfitted  # with one class the likelihood has no maximum, the offset would run to infinity

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        scale, offset = parameters
        t = scale * z + offset
        error = 1 / (1 + np.exp(-np.clip(t, -500, 500))) - y
        value = np.mean(np.logaddexp(0, t) - y * t) + PRIOR_STRENGTH * (scale - 1) ** 2
        return float(value), np.array([np.mean(error * z) + 2 * PRIOR_STRENGTH * (scale - 1), np.mean(error)])

    fitted = minimize(loss, start, jac=True, method="BFGS").x
    if not np.isfinite(fitted).all() or fitted[0] <= 0:
        return unfitted
    return Calibration(method="platt", scale=float(fitted[0]), offset=float(fitted[1]), negative_sampling_rate=negative_sampling_rate)
