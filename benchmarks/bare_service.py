"""The limit: `serving`'s own decoder, ranker and encoder behind bare Starlette and uvicorn, and nothing else.

No admission, no queue, no metrics, no request id, no error but a 500.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.plain_ranker import BUNDLE_VARIABLE
from serving.contract.bundle import open_ranking_bundle
from serving.protocol.answers import Model, rank_answer
from serving.protocol.media import JSON
from serving.ranking.ranker import Ranker

MAX_CANDIDATES = 1000

ranker = Ranker(open_ranking_bundle(Path(os.environ[BUNDLE_VARIABLE])), threads=1, max_candidates=MAX_CANDIDATES)
ranker.warm_up((1, MAX_CANDIDATES))
model = Model(ranker.manifest.name, ranker.manifest.version)


async def rank(request: Request) -> Response:
    """Rank the candidates of the body."""
    ranking = ranker.rank(ranker.decoder.decode(await request.body()))
    return Response(rank_answer(model, "", ranking.ids, ranking.probabilities), media_type=JSON)


async def ready(_: Request) -> Response:
    """The module has loaded the graph by now."""
    return Response(b"ready")


app = Starlette(routes=[Route("/rank", rank, methods=["POST"]), Route("/readyz", ready)])
