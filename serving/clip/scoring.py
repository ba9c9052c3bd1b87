"""From similarities to probabilities.

A similarity is the cosine of an image's and a label's embedding. It does not depend on which other labels were asked, so it can be compared
across requests; so can what `independent` gives. A softmax cannot: it parts one probability among the labels at hand.

References
----------
Radford et al. (CLIP), ICML 2021: softmax over ``logit_scale * cosine``. Zhai et al., "Sigmoid Loss for Language Image Pre-Training",
ICCV 2023: ``sigmoid(logit_scale * cosine + logit_bias)``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def exclusive(similarities: Floats, logit_scale: float, null: Floats | None = None) -> tuple[Floats, Floats | None]:
    """One of the labels holds, or, with a null prompt, none: softmax of the scaled similarities.

    Parameters
    ----------
    similarities
        ``(B, K) float32``.
    null
        ``(B,) float32``, similarities to the null prompt, which then takes its share.

    Returns
    -------
    tuple
        Probabilities ``(B, K) float32``, and of none ``(B,) float32``; None without a null prompt.
    """
    joined = similarities if null is None else np.concatenate([similarities, null[:, None]], axis=1)
    logits = joined.astype(np.float64) * logit_scale
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    shares = (logits / logits.sum(axis=1, keepdims=True)).astype(np.float32)
    return (shares, None) if null is None else (shares[:, :-1], shares[:, -1])


def independent(similarities: Floats, logit_scale: float, logit_bias: float | None, null: Floats | None = None) -> Floats:
    """Each label holds or not, whatever the others do.

    A model that was trained with a sigmoid has a bias that says at which similarity a label is as likely as not. One that was trained with
    a softmax has none: there the null prompt stands in, and a label's probability is its share in a softmax of the two.

    Parameters
    ----------
    similarities
        ``(B, K) float32``.
    logit_bias
        Of a model that was trained with a sigmoid.
    null
        ``(B,) float32``, similarities to the null prompt; needed where there is no bias.

    Returns
    -------
    ndarray
        Probabilities ``(B, K) float32``.
    """
    scaled = similarities.astype(np.float64) * logit_scale
    if logit_bias is not None:
        logits = scaled + logit_bias
    else:
        assert null is not None  # the caller embeds one
        logits = scaled - null[:, None].astype(np.float64) * logit_scale
    return sigmoid(logits).astype(np.float32)


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logistic function, without overflow at either end."""
    shrunk = np.exp(-np.abs(logits))
    found: npt.NDArray[np.float64] = np.where(logits >= 0, 1.0, shrunk) / (1.0 + shrunk)
    return found


def best_labels(probabilities: Floats, top_k: int | None, threshold: float | None) -> npt.NDArray[np.int64]:
    """Positions of one image's labels, the most probable first, equal ones in the order of the request.

    Parameters
    ----------
    probabilities
        ``(K,) float32``.
    top_k
        Most that are wanted.
    threshold
        Least probability that is wanted.
    """
    best: npt.NDArray[np.int64]
    if top_k is not None and top_k < len(probabilities):
        least = np.partition(probabilities, len(probabilities) - top_k)[len(probabilities) - top_k]
        candidates = np.flatnonzero(probabilities >= least)  # ascending, so that a stable sort keeps the order of equals
        best = candidates[np.argsort(-probabilities[candidates], kind="stable")][:top_k]
    else:
        best = np.argsort(-probabilities, kind="stable")
    return best if threshold is None else best[probabilities[best] >= threshold]
