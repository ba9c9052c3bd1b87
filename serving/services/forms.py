"""The forms in which a model can be asked: each decodes a body, makes arrays of it and writes the answer.

A form is made for one loaded model. The route calls its three steps in turn and measures each; between the last two the
request waits in the queue and runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from serving.contract.fields import PROBABILITY
from serving.features.arrow_columns import ArrowEncoder, ArrowRequest
from serving.features.columns import Encoded
from serving.features.requests import RankRequest
from serving.features.tensors import TensorEncoder
from serving.protocol.answers import Model, rank_answer
from serving.protocol.arrow import rank_answer_arrow, read_batch
from serving.protocol.media import ARROW, JSON, OCTETS
from serving.protocol.open_inference import HEADER_LENGTH, InferReader, InferRequest, infer_answer, require_outputs
from serving.ranking.ranker import Ranker, best_first, order
from serving.services.exchange import Headers

Probabilities = npt.NDArray[np.float32]


class Written(NamedTuple):
    """An answer's body, its media type and headers of its own."""

    content: bytes
    media: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Form(Protocol):
    """One way to ask one model."""

    answers: tuple[str, ...]
    """Media types that it can write, the preferred one first."""

    bytes_per_candidate: float
    """Of a body, measured as it serves: how large a request is must be guessed before it is decoded."""

    def decode(self, body: bytes, headers: Headers) -> Any:
        """Read the body; raises `RequestError`."""
        ...

    def encode(self, request: Any) -> Encoded:
        """Make arrays; raises `RequestError`."""
        ...

    def answer(self, request: Any, probabilities: Probabilities, request_id: str, media: str) -> Written:
        """Write the answer; `media` is what was negotiated."""
        ...


class JsonForm:
    """``application/json`` to the ranking route."""

    answers: tuple[str, ...] = (JSON, ARROW)

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self._model = Model(ranker.manifest.name, ranker.manifest.version)
        self.bytes_per_candidate = 120.0

    def decode(self, body: bytes, headers: Headers) -> RankRequest:
        """Decode a body into the structures of the specification."""
        return self._ranker.decoder.decode(body)

    def encode(self, request: RankRequest) -> Encoded:
        """Gather the columns."""
        return self._ranker.encode(request)

    def answer(self, request: RankRequest, probabilities: Probabilities, request_id: str, media: str) -> Written:
        """Order the candidates and write them."""
        ranking = order(request, probabilities)
        return _ranked(self._model, request_id, ranking.ids, ranking.probabilities, media)


class ArrowForm:
    """``application/vnd.apache.arrow.stream`` to the ranking route."""

    answers: tuple[str, ...] = (ARROW, JSON)

    def __init__(self, ranker: Ranker) -> None:
        self._encoder = ArrowEncoder(ranker.manifest.features, ranker.max_candidates)
        self._model = Model(ranker.manifest.name, ranker.manifest.version)
        self.bytes_per_candidate = 60.0

    def decode(self, body: bytes, headers: Headers) -> ArrowRequest:
        """Read the stream and check its columns, which are the graph's arrays by then."""
        return self._encoder.encode(read_batch(body))

    def encode(self, request: ArrowRequest) -> Encoded:
        """Nothing is left to gather."""
        return Encoded(request.feeds, 1, request.candidates)

    def answer(self, request: ArrowRequest, probabilities: Probabilities, request_id: str, media: str) -> Written:
        """Order the candidates and write them."""
        best = best_first(probabilities, request.top_k)
        ids = request.ids[best]
        return _ranked(self._model, request_id, ids if media == ARROW else ids.tolist(), probabilities[best], media)


class InferForm:
    """Open Inference Protocol v2: the graph's own tensors, answered in the order in which they came."""

    answers: tuple[str, ...] = (JSON, OCTETS)

    def __init__(self, ranker: Ranker) -> None:
        spec = ranker.manifest.features
        self._reader = InferReader(ranker.max_candidates * max((field.max_values for field in spec.categorical), default=1))
        self._encoder = TensorEncoder(spec, ranker.max_candidates)
        self._model = Model(ranker.manifest.name, ranker.manifest.version)
        self.bytes_per_candidate = 120.0

    def decode(self, body: bytes, headers: Headers) -> InferRequest:
        """Read the tensors."""
        request = self._reader.read(body, headers.get(HEADER_LENGTH))
        require_outputs(request, (PROBABILITY,))
        return request

    def encode(self, request: InferRequest) -> Encoded:
        """Check them against the specification."""
        return self._encoder.encode(request.inputs)

    def answer(self, request: InferRequest, probabilities: Probabilities, request_id: str, media: str) -> Written:
        """Write the probabilities; the request says in which form, by the protocol's own means."""
        content, length = infer_answer(self._model, request, PROBABILITY, probabilities)
        if length is None:
            return Written(content, JSON.encode())
        return Written(content, OCTETS.encode(), ((HEADER_LENGTH, b"%d" % length),))


def _ranked(model: Model, request_id: str, ids: Any, probabilities: Probabilities, media: str) -> Written:
    write = rank_answer_arrow if media == ARROW else rank_answer
    return Written(write(model, request_id, ids, probabilities), media.encode())
