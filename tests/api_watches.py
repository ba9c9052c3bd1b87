"""The stand-in's memory of changes, and watches that push them: what informers of real controllers ask for.

Tests change objects in place as well as by `ApiServer.put`, so that changes are found by comparing, not told. An object that was changed in
place gets a resource version when that is seen: an informer takes one that it knows already for no change at all.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Object = dict[str, Any]

LOOK_EVERY_S = 0.02
"""Between two looks of a watch for changes; a real server pushes within milliseconds."""

BOOKMARK_EVERY_S = 5.0
"""A real server sends one about every minute."""

KINDS = {
    "pods": "Pod", "nodes": "Node", "namespaces": "Namespace", "services": "Service", "secrets": "Secret", "configmaps": "ConfigMap",
    "events": "Event", "jobs": "Job", "endpoints": "Endpoints", "endpointslices": "EndpointSlice", "deployments": "Deployment", "leases": "Lease",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler", "scaledobjects": "ScaledObject", "gatewayclasses": "GatewayClass",
    "gateways": "Gateway", "httproutes": "HTTPRoute", "grpcroutes": "GRPCRoute", "tcproutes": "TCPRoute", "tlsroutes": "TLSRoute",
    "referencegrants": "ReferenceGrant", "backendtlspolicies": "BackendTLSPolicy",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where an object or a collection is, read from its path.

    Attributes
    ----------
    root
        ``/api/v1``, or ``/apis/`` with group and version.
    namespace
        None: of none, or of all.
    name
        None: the collection.
    """

    root: str
    namespace: str | None
    plural: str
    name: str | None

    @staticmethod
    def of(path: str) -> Place | None:
        """Read a path; None where it is neither an object's nor a collection's."""
        parts = path.strip("/").split("/")
        depth = {"api": 2, "apis": 3}.get(parts[0], len(parts))
        root, rest = "/" + "/".join(parts[:depth]), parts[depth:]
        if rest[:1] == ["namespaces"] and len(rest) in (3, 4):
            return Place(root, rest[1], rest[2], rest[3] if len(rest) == 4 else None)
        if len(rest) in (1, 2):
            return Place(root, None, rest[0], rest[1] if len(rest) == 2 else None)
        return None

    def holds(self, other: Place) -> bool:
        """Whether an object is of this collection."""
        return (self.root, self.plural) == (other.root, other.plural) and self.namespace in (None, other.namespace)

    @property
    def type(self) -> Object:
        """What an object of here says of itself."""
        return {"apiVersion": self.root.removeprefix("/apis/").removeprefix("/api/"), "kind": KINDS.get(self.plural, "Unknown")}


@dataclass(frozen=True)
class Event:
    version: int
    type: str
    path: str
    text: str


class Memory:
    """Every change since the first question, by resource version.

    Attributes
    ----------
    version
        The newest resource version.
    closing
        Set: watches end.
    """

    def __init__(self, objects: dict[str, Object]) -> None:
        self._objects, self.version, self.closing = objects, 0, threading.Event()
        self.lock = threading.RLock()
        self._known: dict[str, Event] = {}
        self._events: list[Event] = []

    def look(self) -> None:
        """Find what changed."""
        with self.lock:
            fresh: list[Event] = []
            for path, found in list(self._objects.items()):
                place, known = Place.of(path), self._known.get(path)
                if place is None:
                    continue
                metadata = found.setdefault("metadata", {})
                if known is not None:  # made anew by a test, maybe just as it was
                    metadata.setdefault("resourceVersion", str(known.version))
                text = _text(place, found)
                if known is not None and text == known.text:
                    continue
                if metadata.get("resourceVersion") in (None, str(known.version) if known else None):
                    self.version += 1
                    metadata["resourceVersion"] = str(self.version)
                    text = _text(place, found)
                event = Event(int(metadata["resourceVersion"]), "MODIFIED" if known else "ADDED", path, text)
                self._known[path] = event
                fresh.append(event)
            for path in self._known.keys() - self._objects.keys():
                self.version += 1
                fresh.append(Event(self.version, "DELETED", path, self._known.pop(path).text))
            self._events += sorted(fresh, key=lambda event: event.version)

    def list(self, path: str, query: dict[str, str]) -> list[Object]:
        """Objects of a collection; where a watch is to begin at this list, all changes up to it are known."""
        if "resourceVersion" in query:
            self.look()
        return [place.type | found for place, found in self._asked(path, query)]

    async def watch(self, request: web.BaseRequest, path: str, query: dict[str, str]) -> web.StreamResponse:
        """Push changes until the time that was asked for is over, the client goes, or the server ends."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        place = Place.of(path)
        assert place is not None
        now_s = time.monotonic()
        end_s, mark_s = now_s + float(query.get("timeoutSeconds", 3600)), now_s + BOOKMARK_EVERY_S
        lines, seen = self._begin(path, query)
        while True:
            if lines:
                await response.write("".join(line + "\n" for line in lines).encode())
            now_s = time.monotonic()
            if self.closing.is_set() or now_s >= end_s:
                return response
            await asyncio.sleep(min(LOOK_EVERY_S, end_s - now_s))
            self.look()
            with self.lock:
                fresh = [event for event in self._events if event.version > seen]
                seen = self.version
            lines = [_line(event.type, event.text) for event in fresh if _is_asked(place, query, event)]
            if query.get("allowWatchBookmarks") and now_s >= mark_s:
                lines.append(_bookmark(place, seen, {}))
                mark_s = now_s + BOOKMARK_EVERY_S

    def _begin(self, path: str, query: dict[str, str]) -> tuple[list[str], int]:
        """What a watch says first, and the version it goes on from."""
        self.look()
        with self.lock:
            since = query.get("resourceVersion", "")
            if since not in ("", "0") and query.get("sendInitialEvents") != "true":
                return [], int(since)
            lines = [_line("ADDED", _text(place, found)) for place, found in self._asked(path, query)]
            if query.get("sendInitialEvents") == "true":
                place = Place.of(path)
                assert place is not None
                lines.append(_bookmark(place, self.version, {"k8s.io/initial-events-end": "true"}))
            return lines, self.version

    def _asked(self, path: str, query: dict[str, str]) -> Iterator[tuple[Place, Object]]:
        collection = Place.of(path)
        assert collection is not None
        for where, found in sorted(self._objects.items()):
            place = Place.of(where)
            if place is not None and collection.holds(place) and _is_selected(place, query, found):
                yield place, found


def _is_selected(place: Place, query: dict[str, str], found: Object) -> bool:
    field, _, value = query.get("fieldSelector", "").partition("=")
    if field == "metadata.name" and value != place.name:
        return False
    selector = [pair for pair in query.get("labelSelector", "").split(",") if pair]
    labels = found["metadata"].get("labels") or {}
    return all(
        labels.get(key.removesuffix("!")) != value if key.endswith("!") else labels.get(key) == value
        for key, _, value in (pair.partition("=") for pair in selector)
    )


def _is_asked(collection: Place, query: dict[str, str], event: Event) -> bool:
    place = Place.of(event.path)
    return place is not None and collection.holds(place) and _is_selected(place, query, json.loads(event.text))


def _text(place: Place, found: Object) -> str:
    return json.dumps(place.type | found)


def _line(kind: str, text: str) -> str:
    return f'{{"type":"{kind}","object":{text}}}'


def _bookmark(place: Place, version: int, annotations: Object) -> str:
    return _line("BOOKMARK", json.dumps(place.type | {"metadata": {"resourceVersion": str(version), "annotations": annotations}}))
