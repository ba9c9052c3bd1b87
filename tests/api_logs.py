"""Logs of pods in the stand-in for the API server, followed as a real one lets them be: with times, from a time, until it ends the connection."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web

LOOK_EVERY_S = 0.02


@dataclass
class Log:
    """One container's.

    Attributes
    ----------
    ended
        The container has ended: who follows gets the rest, and the connection ends.
    """

    lines: list[tuple[datetime, bytes]] = field(default_factory=list)
    ended: bool = False


class Logs:
    """All of them, by the path of the pod.

    Attributes
    ----------
    cut_after
        Lines after which the server ends a connection; None: none.
    asked
        The query of each request.
    closing
        Set: connections end.
    """

    def __init__(self, closing: threading.Event) -> None:
        self.by_pod: dict[str, Log] = {}
        self.asked: list[dict[str, str]] = []
        self.cut_after: int | None = None
        self.closing = closing

    def write(self, pod: str, line: bytes, at: datetime | None = None) -> None:
        """Append a line, as the container runtime does."""
        self.by_pod.setdefault(pod, Log()).lines.append((at or datetime.now(UTC), line.rstrip(b"\n") + b"\n"))

    def end(self, pod: str) -> None:
        self.by_pod.setdefault(pod, Log()).ended = True

    async def serve(self, request: web.BaseRequest, pod: str, query: dict[str, str]) -> web.StreamResponse:
        """Send what there is, and, where it is followed, what comes."""
        self.asked.append(query)
        log = self.by_pod[pod]
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        since = datetime.fromisoformat(query["sinceTime"]) if "sinceTime" in query else None
        sent, seen = 0, max(len(log.lines) - int(query["tailLines"]), 0) if "tailLines" in query else 0
        while True:
            over, fresh = log.ended or "follow" not in query, log.lines[seen:]
            seen += len(fresh)
            for at, line in fresh:
                if since is None or at >= since:
                    stamp = at.isoformat(timespec="microseconds").replace("+00:00", "000Z ").encode() if "timestamps" in query else b""
                    await response.write(stamp + line)
                    sent += 1
                    if sent == self.cut_after:
                        return response
            if (over and seen >= len(log.lines)) or self.closing.is_set():
                return response
            await asyncio.sleep(LOOK_EVERY_S)
