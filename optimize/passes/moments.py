"""What values inside a graph look like on calibration data.

Letters: ``N`` rows (all axes but the last), ``K`` width of a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from optimize.passes.activations import observe
from optimize.passes.base import CalibrationError, Context

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Means over all rows of all runs.

    Attributes
    ----------
    mean
        ``(K,)``.
    second
        Mean of squares, ``(K,)``, or of products of any two columns, ``(K, K)``.
    """

    mean: Floats
    second: Floats

    @property
    def deviation(self) -> Floats:
        """Standard deviation of each column, ``(K,)``."""
        squares = self.second if self.second.ndim == 1 else np.diagonal(self.second)
        return np.sqrt(np.maximum(squares - self.mean**2, 0.0))

    @property
    def covariance(self) -> Floats:
        """``(K, K)``, where products of columns were observed."""
        out: Floats = self.second - np.outer(self.mean, self.mean)
        return out


def moments_of(model: onnx.ModelProto, names: Iterable[str], context: Context, *, products: bool = False) -> dict[str, Moments]:
    """Run a graph on the calibration data of `context` and summarize float values inside it; empty without calibration data.

    Parameters
    ----------
    products
        Observe products of columns, not squares alone.

    Raises
    ------
    CalibrationError
        The model does not run on the data, or a value is not finite.
    """
    wanted = sorted(set(names))
    if not context.calibration or not wanted:
        return {}
    totals: dict[str, tuple[int, Floats, Floats]] = {}
    for values in observe(model, wanted, context.calibration):
        for name, value in values.items():
            rows = np.asarray(value, np.float64).reshape(-1, value.shape[-1])
            second = rows.T @ rows if products else (rows**2).sum(axis=0)
            count, first, before = totals.get(name, (0, np.zeros(rows.shape[1]), np.zeros_like(second)))
            totals[name] = count + len(rows), first + rows.sum(axis=0), before + second
    if any(count == 0 for count, _, _ in totals.values()):
        raise CalibrationError("the calibration data has no rows")
    return {name: Moments(first / count, second / count) for name, (count, first, second) in totals.items()}
