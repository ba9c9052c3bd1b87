"""The rivals that a ranking model must beat: hashed logistic regression and gradient-boosted trees.

Both see the same fields, the same training target and the same validation part as the network; each picks its own
strength of regularization on the validation part.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from optimize.data.interactions import Interactions
from optimize.features.encode import Encoded
from optimize.training.metrics import auc
from serving.contract.fields import FeatureSpec

Floats = npt.NDArray[np.float64]

INVERSE_STRENGTHS = (0.1, 1.0)
"""Values of scikit-learn's ``C`` that are tried; outside them the validation AUC fell on both data sets."""

MAX_SOLVER_ROUNDS = 150
MAX_TREES = 600
EARLY_STOPPING_ROUNDS = 40

TRIAL_TREES = 50
"""Trees after which it is decided whether lists help. On MovieLens they are worth 0.0026 AUC after 25, 0.0021 after 50 and 0.0032 at
the end, on the synthetic clicks 0.037 after 30."""


@dataclass(frozen=True)
class BaselineResult:
    """Log-odds ``(B,)`` of one baseline on validation and test part, and the settings that validation chose."""

    name: str
    chosen: str
    validation_logit: Floats
    test_logit: Floats


def logistic_regression(
    spec: FeatureSpec, parts: tuple[Encoded, Encoded, Encoded], target: npt.NDArray[np.float32], validation_label: npt.NDArray[np.float32]
) -> BaselineResult:
    """Fit a linear model over the one-hot embedding rows and the numbers, as hashed features are used classically.

    Parameters
    ----------
    parts
        Encoded training, validation and test parts.
    target
        ``(B,)`` training target in [0, 1]; values between count as a click and a non-click, weighted.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    train, validation, test = (_one_hot(spec, part) for part in parts)
    soft = bool(np.any((target > 0) & (target < 1)))
    x = sparse.vstack([train, train]).tocsr() if soft else train
    y = np.repeat([1, 0], len(target)) if soft else (target > 0).astype(int)
    weight = np.concatenate([target, 1 - target]) if soft else None
    best: tuple[float, float, Any] | None = None
    for c in INVERSE_STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of the optimum do not move the AUC
            model = LogisticRegression(C=c, max_iter=MAX_SOLVER_ROUNDS, tol=1e-3).fit(x, y, weight)
        score = auc(validation_label, model.decision_function(validation))
        if best is None or score > best[0]:
            best = (score, c, model)
    assert best is not None
    chosen = best[2]
    return BaselineResult("logistic regression", f"C = {best[1]}", chosen.decision_function(validation), chosen.decision_function(test))


def boosted_trees(
    spec: FeatureSpec,
    parts: tuple[Interactions, Interactions, Interactions],
    target: npt.NDArray[np.float32],
    seed: int,
) -> BaselineResult:
    """Fit LightGBM on the raw ids as categories, the numbers, and lists as counts of their most frequent values.

    Whether lists help is decided on the validation part.

    Parameters
    ----------
    parts
        Raw training, validation and test parts.
    target
        ``(B,)`` training target in [0, 1].
    """
    import lightgbm as lgb

    lgb.register_logger(logging.getLogger("lightgbm"))  # else it prints on stdout, where the JSON goes
    settings = {  # the best of eight on MovieLens' validation part; 63 leaves, or rare ids put together, were 0.002 to 0.004 AUC worse
        "objective": "cross_entropy",
        "learning_rate": 0.05,
        "num_leaves": 127,
        "min_data_in_leaf": 20,
        "cat_smooth": 20,
        "cat_l2": 10,
        "max_cat_threshold": 256,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "metric": "auc",
        "verbose": -1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
    }
    columns = _TreeColumns(spec, parts[0])
    train, validation, test = (columns.matrix(part) for part in parts)

    def fit(width: int, trees: int) -> tuple[float, Any]:
        data = lgb.Dataset(train[:, :width], target, categorical_feature=columns.categories)
        check = lgb.Dataset(validation[:, :width], parts[1].label, reference=data, categorical_feature=columns.categories)
        stop = lgb.early_stopping(EARLY_STOPPING_ROUNDS, verbose=False)
        model = lgb.train(settings, data, trees, valid_sets=[check], callbacks=[stop])
        return model.best_score["valid_0"]["auc"], model

    width = train.shape[1]
    if width > columns.without_lists:
        width = max(width, columns.without_lists, key=lambda tried: fit(tried, TRIAL_TREES)[0])
    _, model = fit(width, MAX_TREES)
    chosen = f"{model.best_iteration} trees, {'with' if width > columns.without_lists else 'without'} lists"
    on_validation, on_test = (np.asarray(model.predict(x[:, :width], raw_score=True), np.float64) for x in (validation, test))
    return BaselineResult("LightGBM", chosen, on_validation, on_test)


def _one_hot(spec: FeatureSpec, part: Encoded) -> sparse.csr_matrix:
    """Rows of all fields side by side, lists scaled by the root of their length; missing is nothing."""
    blocks = []
    for hashed in spec.hashed:
        rows = part.rows[hashed.name]
        rows = rows if rows.ndim == 2 else rows[:, None]
        present = rows > 0
        scale = 1 / np.sqrt(np.maximum(present.sum(axis=1), 1))
        at, slot = np.nonzero(present)
        blocks.append(sparse.csr_matrix((scale[at], (at, rows[at, slot])), shape=(len(rows), hashed.rows)))
    blocks += [sparse.csr_matrix(part.numbers[number.name][:, None]) for number in spec.numeric]
    stacked: sparse.csr_matrix = sparse.hstack(blocks, format="csr")
    return stacked


class _TreeColumns:
    """Columns for trees: codes of single ids, raw numbers, counts of frequent list values.

    Lists come last, so that a matrix without them is the first `without_lists` columns of one with them.
    """

    MOST_LIST_VALUES = 24

    def __init__(self, spec: FeatureSpec, train: Interactions) -> None:
        self._codes: dict[str, dict[Any, int]] = {}
        self._positions: dict[str, dict[Any, int]] = {}
        self._numbers = [number.name for number in spec.numeric]
        for field in spec.categorical:
            counts = Counter(train.columns[field.name].ravel().tolist())
            by_count = sorted(counts, key=lambda value: (-counts[value], str(value)))
            if field.is_list:
                self._positions[field.name] = {value: i for i, value in enumerate(by_count[: self.MOST_LIST_VALUES], 1)}
            else:
                self._codes[field.name] = {value: i for i, value in enumerate(by_count, 1)}
        self.categories = list(range(len(self._codes)))
        self.without_lists = len(self._codes) + len(self._numbers)

    def matrix(self, part: Interactions) -> npt.NDArray[np.float32]:
        """Feature matrix ``(B, F) float32``; code 0 is an unseen id."""
        singles = [_looked_up(codes, part.columns[name]) for name, codes in self._codes.items()]
        singles += [part.columns[name] for name in self._numbers]
        blocks = [np.stack(singles, axis=1).astype(np.float32)]
        for name, positions in self._positions.items():
            lists = part.columns[name]
            at = np.arange(len(lists))[:, None] * (len(positions) + 1) + _looked_up(positions, lists)
            counts = np.bincount(at.ravel(), minlength=len(lists) * (len(positions) + 1))
            blocks.append(counts.reshape(len(lists), -1)[:, 1:].astype(np.float32))
        return np.concatenate(blocks, axis=1)


def _looked_up(codes: dict[Any, int], values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Code of each value, 0 where it has none; hashed one by one, as NumPy sorts and compares text many times slower."""
    return np.fromiter((codes.get(value, 0) for value in values.ravel().tolist()), np.int64, values.size).reshape(values.shape)
