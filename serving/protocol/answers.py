"""JSON answers and error bodies. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from serving.contract.errors import RequestError


class Model(msgspec.Struct, frozen=True):
    """Which model answered."""

    name: str
    version: str


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """One candidate of an answer."""

    id: str | int
    probability: float


class RankAnswer(msgspec.Struct, frozen=True):
    """Answer of ``POST /v1/rank``: candidates by falling probability."""

    model: Model
    request_id: str
    ranking: list[Ranked]


class BrokenRule(msgspec.Struct, frozen=True):
    """One broken rule of a refused request."""

    path: str
    rule: str
    value: str | None = None


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong."""

    code: str
    message: str
    request_id: str
    violations: list[BrokenRule] = []


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Body of every answer that is not a 2xx, but for the routes of the Open Inference Protocol."""

    error: ErrorDetail


encode = msgspec.json.Encoder().encode


def rank_answer(model: Model, request_id: str, ids: Sequence[str | int], probabilities: npt.NDArray[np.float32]) -> bytes:
    """Encode an answer from ids and their probabilities ``(K,) float32``, best first."""
    return encode(RankAnswer(model, request_id, list(map(Ranked, ids, probabilities.tolist()))))


def refusal(error: RequestError, request_id: str) -> ErrorAnswer:
    """Tell a caller what to mend."""
    violations = [BrokenRule(violation.path, violation.rule, violation.value) for violation in error.violations]
    return ErrorAnswer(ErrorDetail(error.code, error.message, request_id, violations))


def failure(code: str, message: str, request_id: str) -> ErrorAnswer:
    """Tell a caller that it is our fault, without the cause."""
    return ErrorAnswer(ErrorDetail(code, message, request_id))
