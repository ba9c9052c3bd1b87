"""A rival: FastAPI as its tutorial has it, around `benchmarks.plain_ranker`, on uvicorn with uvloop and httptools.

The endpoint is ``async``: handing a run of a millisecond to the thread pool would cost it more.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.plain_ranker import PlainRanker

app = FastAPI()
ranker = PlainRanker()


class RankRequest(BaseModel):
    """The body."""

    user: dict[str, str | None]
    context: dict[str, str | None]
    candidates: list[dict[str, str | None]]


@app.post("/rank")
async def rank(request: RankRequest) -> dict[str, Any]:
    """Return all candidates, best first."""
    return {"ranking": ranker.rank(request.user, request.context, request.candidates)}


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    """The module has loaded the graph by now."""
    return {"ready": True}
