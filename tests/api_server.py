"""kmock, taught what the rollout relies on in a real API server: resource versions, server-side apply, label selectors, generations.

A real server knows the schema of each object and merges lists by their keys; here the few lists that matter are named.
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import kmock
from aiohttp import web

from tests.api_logs import Logs
from tests.api_watches import KINDS, Memory, Place

Object = dict[str, Any]

MAX_DATA_BYTES = 2**20
"""Of a ConfigMap; what is larger is invalid."""

MERGED_BY_NAME = ("containers", "initContainers", "volumes", "env")


class Refuse(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None, causes: list[str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after, self.causes = status, message, retry_after, causes or []


class ApiServer:
    """Objects by path, behind kmock's HTTP server.

    Attributes
    ----------
    objects
        Path → object.
    fault
        Called with method and path before each request is served; may raise `Refuse`, or return seconds to wait before the answer.
    after
        Called after a request took effect, before it is answered.
    changed
        Called after each change, to play the controllers.
    logs
        Of pods.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], float | None] = lambda method, path: None
        self.after: Callable[[str, str], None] = lambda method, path: None
        self.changed: Callable[[], None] = lambda: None
        self.memory = Memory(self.objects)
        self.logs = Logs(self.memory.closing)
        self.url = ""

    def put(self, path: str, body: Object) -> Object:
        """Set an object as somebody else would."""
        with self.memory.lock:
            self.memory.version += 1
            old = self.objects.get(path)
            metadata = body.setdefault("metadata", {})
            metadata["resourceVersion"] = str(self.memory.version)
            metadata.setdefault("uid", old["metadata"]["uid"] if old else str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", (old or {"metadata": {}})["metadata"].get("creationTimestamp", _now()))
            same = old is not None and old.get("spec") == body.get("spec")
            metadata["generation"] = (old or body)["metadata"].get("generation", 1) + (0 if same or old is None else 1)
            self.objects[path] = body
            return body

    def answer(self, method: str, path: str, query: dict[str, str], raw: bytes, headers: Mapping[str, str]) -> Object:
        """Serve a request that is no watch and no log."""
        self.requests.append((method, path))
        self.fault(method, path)
        place = Place.of(path)
        is_list = method == "GET" and place is not None and place.name is None and place.plural in KINDS
        answer = self._list(path, query) if is_list else self._answer(method, path, query, raw, headers)
        self.after(method, path)
        return copy.deepcopy(dict(answer))

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        method, path, raw = request.method, request.path, await request.read()
        self.requests.append((method, path))
        try:
            wait_s = self.fault(method, path)
            if wait_s:
                await asyncio.sleep(wait_s)
            query, place = dict(request.query), Place.of(path)
            is_list = method == "GET" and place is not None and place.name is None and place.plural in KINDS
            if is_list and query.get("watch") in ("1", "true"):
                return await self.memory.watch(request, path, query)
            if method == "GET" and path.endswith("/log"):
                return await self.logs.serve(request, self._with_log(path.removesuffix("/log")), query)
            answer = self._list(path, query) if is_list else self._answer(method, path, query, raw, request.headers)
            self.after(method, path)
            return web.json_response(answer)
        except Refuse as error:
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
            details = {"causes": [{"message": cause} for cause in error.causes]}
            return web.json_response({"kind": "Status", "message": error.message, "details": details}, status=error.status, headers=headers)

    def _answer(self, method: str, path: str, query: dict[str, str], raw: bytes, headers: Any) -> Any:
        body = json.loads(raw) if raw else None
        if method == "GET" and path in self.objects:
            return self.objects[path]
        if path.endswith("/status"):
            return self._tell(path.removesuffix("/status"), body)
        if method == "POST":
            metadata = body.setdefault("metadata", {})
            name = metadata.setdefault("name", metadata.get("generateName", "") + uuid.uuid4().hex[:6])
            if f"{path}/{name}" in self.objects:
                raise Refuse(409, f'"{name}" already exists')
            return self._done(f"{path}/{name}", body)
        if method == "PATCH" and "apply-patch" in headers["Content-Type"]:
            return self._apply(path, body, query)
        found = self.objects.get(path)
        if found is None:
            raise Refuse(404, f"{path} not found")
        if method == "DELETE":
            del self.objects[path]
            self.changed()
            return {"kind": "Status", "status": "Success"}
        self._check_version(found, body)
        return self._done(path, body if method == "PUT" else _merged(found, body))

    def _with_log(self, pod: str) -> str:
        if pod not in self.objects:
            raise Refuse(404, f"{pod} not found")
        if pod not in self.logs.by_pod:
            raise Refuse(400, f'container "tools" in pod "{pod.rpartition("/")[2]}" is waiting to start: ContainerCreating')
        return pod

    def _list(self, path: str, query: dict[str, str]) -> Any:
        items = self.memory.list(path, query)
        begin, limit = int(query.get("continue", 0)), int(query.get("limit", 500))
        rest = str(begin + limit) if begin + limit < len(items) else ""
        place = Place.of(path)
        assert place is not None
        kind = {"apiVersion": place.type["apiVersion"], "kind": f"{place.type['kind']}List"}
        return kind | {"items": items[begin : begin + limit], "metadata": {"continue": rest, "resourceVersion": str(self.memory.version)}}

    def _tell(self, path: str, body: Object) -> Object:
        """Write the status alone, as a controller does."""
        found = self.objects.get(path)
        if found is None:
            raise Refuse(404, f"{path} not found")
        self._check_version(found, body)
        return copy.deepcopy(self.put(path, copy.deepcopy(found) | {"status": body.get("status")}))

    def _apply(self, path: str, body: Object, query: dict[str, str]) -> Object:
        manager, found = query["fieldManager"], copy.deepcopy(self.objects.get(path))
        if found is None:
            found = {"metadata": {}}
        self._check_version(found, body)
        owners: dict[str, str] = found["metadata"].setdefault("owners", {})
        mine = _leaves({key: value for key, value in body.items() if key not in ("apiVersion", "kind")})
        before = _leaves(found)
        others = sorted({owners[leaf] for leaf in mine if owners.get(leaf, manager) != manager and before.get(leaf) != mine[leaf]})
        if others and query.get("force") != "true":
            raise Refuse(409, f"Apply failed with {len(others)} conflict", causes=[f'conflict with "{other}"' for other in others])
        whole = _merged(found, body)
        for leaf in [leaf for leaf, owner in owners.items() if owner == manager and leaf not in mine and leaf.startswith("data.")]:
            whole["data"].pop(leaf.removeprefix("data."), None)
        whole["metadata"]["owners"] = owners | dict.fromkeys(mine, manager)
        return self._done(path, whole)

    def _check_version(self, found: Object, body: Object) -> None:
        asked = (body.get("metadata") or {}).get("resourceVersion")
        if asked is not None and asked != found["metadata"].get("resourceVersion"):
            raise Refuse(409, "the object has been modified; please apply your changes to the latest version and try again")

    def _done(self, path: str, body: Object) -> Object:
        if body.get("kind") == "ConfigMap" and sum(len(value.encode()) for value in (body.get("data") or {}).values()) > MAX_DATA_BYTES:
            raise Refuse(
                422, f'ConfigMap "{body["metadata"]["name"]}" is invalid: []: Too long: may not be more than {MAX_DATA_BYTES} bytes'
            )
        done = self.put(path, copy.deepcopy(body))
        self.changed()
        return copy.deepcopy(done)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _merged(old: Object, new: Object) -> Object:
    whole = copy.deepcopy(old)
    for key, value in new.items():
        if value is None:
            whole.pop(key, None)
        elif isinstance(value, dict):
            whole[key] = _merged(whole.get(key) or {}, value)
        elif key in MERGED_BY_NAME and isinstance(value, list):
            named = {each["name"]: each for each in whole.get(key) or []}
            whole[key] = list((named | {each["name"]: _merged(named.get(each["name"], {}), each) for each in value}).values())
        else:
            whole[key] = copy.deepcopy(value)
    return whole


def _leaves(body: Any, path: str = "") -> dict[str, str]:
    if isinstance(body, dict):
        found: dict[str, str] = {}
        for key, value in body.items():
            if not (path == "" and key == "status") and key not in ("name", "namespace", "resourceVersion", "owners", "uid", "generation"):
                found |= _leaves(value, f"{path}.{key}" if path else key)
        return found
    if isinstance(body, list) and path.rpartition(".")[2] in MERGED_BY_NAME:
        return {leaf: value for each in body for leaf, value in _leaves(each, f"{path}[{each['name']}]").items()}
    return {path: json.dumps(body, sort_keys=True)}


class _Handler(kmock.RawHandler):
    """kmock's HTTP server, answering from an `ApiServer`; kmock 0.8 itself cannot read ``/api/v1/namespaces``."""

    async def __call__(self, raw_request: web.BaseRequest) -> web.StreamResponse:
        return await SERVED[id(self)].serve(raw_request)


SERVED: dict[int, ApiServer] = {}


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """Serve on loopback, in a thread of its own, until the block ends."""
    server, started, loop = ApiServer(), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        async with _Handler() as handler, kmock.Server(handler, host="127.0.0.1") as http:
            SERVED[id(handler)] = server
            server.url = str(http.url).rstrip("/")
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        server.memory.closing.set()
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
