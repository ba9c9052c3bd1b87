"""Requests on which versions are compared, and what of their answers is: rankings of candidates, and labels of images.

Of a ranking, all scores are compared and the order of the first. Of an image, its best label and how probable that is: further labels are
what it is not, and of a softmax their probabilities say what the best one's does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy import bool_, float64, int64
from numpy.typing import NDArray

RANK_PATH, CLASSIFY_PATH = "/v1/rank", "/v1/classify"

JSON_TYPE = "application/json"

_PATHS = re.compile(r"/v1/(?:models/[^/?]+/)?(?P<task>rank|classify)(?:\?.*)?")

_MEDIA = {"rank": r"application/json", "classify": r"application/json|multipart/form-data|image/.+"}


@dataclass(frozen=True)
class Asked:
    """A request that is put to all arms.

    Attributes
    ----------
    body
        As it is sent; of a copy, what the user sent.
    authorization
        Header of that name, which goes to the arms with it; None: there was none.
    path
        With its query: that of a classification may hold its labels.
    media
        Header ``Content-Type``.
    """

    body: bytes = field(repr=False)
    authorization: str | None = field(default=None, repr=False)
    path: str = field(default=RANK_PATH, repr=False)
    media: str = field(default=JSON_TYPE, repr=False)

    @property
    def ranks(self) -> bool:
        """Whether candidates are to be ranked, not images to be classified."""
        return _task(self.path) == "rank"

    def whole(self) -> Asked | None:
        """Return it asking for all candidates; None where it was to rank and has none. Images are classified as they were asked to be."""
        if not self.ranks:
            return self
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        body = _all_candidates(document)
        return None if body is None else replace(self, body=body)


@dataclass(frozen=True)
class Pair:
    """What two versions answered to the same request.

    Attributes
    ----------
    stable, canary
        Scores of the same candidates, or of the best label of each image.
    overlap
        Share of the top that both have, or of the images whose best label both found.
    labels
        Whether it was images.
    """

    stable: list[float]
    canary: list[float]
    overlap: float
    labels: bool = False


@dataclass(frozen=True)
class Ranking:
    """An answer to a request that ranks: scores by candidate, the best first."""

    scores: dict[str | int, float]

    def beside(self, canary: Ranking, top_k: int) -> Pair | None:
        """Put scores of the same candidates side by side; None where they are not the same."""
        if self.scores.keys() != canary.scores.keys():
            return None
        overlap = top_overlap(list(self.scores), list(canary.scores), top_k)
        return Pair(list(self.scores.values()), [canary.scores[candidate] for candidate in self.scores], overlap)


@dataclass(frozen=True)
class Labels:
    """An answer to a request that classifies.

    Attributes
    ----------
    best
        Of each image the label that it shows, None where it shows none of them, and the largest probability of a label.
    """

    best: tuple[tuple[str | None, float], ...]

    def beside(self, canary: Labels, _: int) -> Pair | None:
        """Put the best labels of the same images side by side; None where they are not as many."""
        if len(self.best) != len(canary.best):
            return None
        same = sum(mine == its for (mine, _), (its, _) in zip(self.best, canary.best, strict=True))
        return Pair([score for _, score in self.best], [score for _, score in canary.best], same / len(self.best), labels=True)


@dataclass(frozen=True)
class Answers:
    """The same requests, put to both versions.

    Letters: ``C`` candidates or images of all requests together, ``P`` requests that both answered, ``A`` those that at least one did.

    Attributes
    ----------
    stable_scores, canary_scores
        ``(C,) float64``, the same candidates in the same order, or the best labels of the same images, request after request.
    sizes
        ``(P,) int64``, candidates or images of each request; at least one.
    overlap
        ``(P,) float64``, share of the top k of each request that both have, or of the images whose best label is the same.
    images
        ``(P,) bool``, whether it was images.
    refused
        ``(A, 2) bool``, in the order in which they were asked, whether the canary, or the other version, refused what the other one took.
    note
        Where the requests came from so far, for the verdict; empty: nothing to say.
    """

    stable_scores: NDArray[float64]
    canary_scores: NDArray[float64]
    sizes: NDArray[int64]
    overlap: NDArray[float64]
    images: NDArray[bool_]
    refused: NDArray[bool_]
    note: str = ""


def comparable(path: str, media: str) -> bool:
    """Whether answers to requests with this path and content type can be compared."""
    task = _task(path)
    return task is not None and re.fullmatch(_MEDIA[task], media.partition(";")[0].strip(), re.IGNORECASE) is not None


def recorded(document: Any) -> Asked | None:
    """Return the request that a line of a file holds; None where it is none."""
    body = _all_candidates(document)
    if body is not None:
        return Asked(body)
    if isinstance(document, dict) and document.get("images") and (document.get("labels") or document.get("label_set")):
        return Asked(json.dumps(document).encode(), path=CLASSIFY_PATH)
    return None


def answer_to(asked: Asked, content: bytes) -> Ranking | Labels | None:
    """Read an answer; None where it says nothing that could be compared."""
    try:
        document = json.loads(content)
        return _ranking(document) if asked.ranks else _labels(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def compare(stable: Ranking | Labels, canary: Ranking | Labels, top_k: int) -> Pair | None:
    """Put two answers to a request side by side; None where they answer different things."""
    if isinstance(stable, Ranking):
        return stable.beside(canary, top_k) if isinstance(canary, Ranking) else None
    return stable.beside(canary, top_k) if isinstance(canary, Labels) else None


def top_overlap(stable_ids: list[object], canary_ids: list[object], top_k: int) -> float:
    """Share of the top k that two rankings of the same candidates have in common; of all where there are fewer."""
    places = min(top_k, len(stable_ids), len(canary_ids))
    return len(set(stable_ids[:places]) & set(canary_ids[:places])) / places if places else 1.0


def _task(path: str) -> str | None:
    found = _PATHS.fullmatch(path)
    return None if found is None else found["task"]


def _all_candidates(document: Any) -> bytes | None:
    if not isinstance(document, dict) or not document.get("candidates"):
        return None
    return json.dumps({key: value for key, value in document.items() if key != "top_k"}).encode()


def _ranking(document: Mapping[str, Any]) -> Ranking | None:
    """Candidates that cannot be told apart, or one without a probability, are no ranking."""
    ranking = document["ranking"]
    scores = {item["id"]: _probability(item) for item in ranking}
    return Ranking(scores) if scores and len(scores) == len(ranking) else None


def _labels(document: Mapping[str, Any]) -> Labels | None:
    """An image without a label was classified too, where a threshold left all out; not where its embedding was all that was asked for."""
    images = document["images"]
    if not images or any(not image["labels"] and "embedding" in image for image in images):
        return None
    return Labels(tuple((image["best"], max(map(_probability, image["labels"]), default=0.0)) for image in images))


def _probability(item: Mapping[str, Any]) -> float:
    value = float(item["probability"])
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{value} is no probability")
    return value
