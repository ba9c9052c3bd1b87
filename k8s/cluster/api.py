"""The Kubernetes API as JSON over HTTP: objects as they come, so that fields that this program does not know survive.

The `kubernetes` package brings addresses, certificates and tokens (and renews these); its typed models are not used, since they drop what
is newer than they are. No call waits for better times: what may help when tried again is raised as `Unavailable`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import HTTPError

from k8s.errors import Conflict, Refused, Unavailable

Object = dict[str, Any]

MANAGER = "pilotage-rollout"
"""Field manager of all that the rollout applies."""

REQUEST_TIMEOUT_S = 10.0
"""For one request. An API server under load answers within seconds; one that does not is as good as away, and is asked again."""

PAGE = 500
"""Objects a page of a list; kubectl's default."""

LISTS = 3
"""Times that a list is begun whose rest the server has forgotten; it remembers for five minutes, and a list takes seconds."""

GONE, CONFLICT, NOT_FOUND, TOO_MANY, UNAUTHORIZED = 410, 409, 404, 429, 401


NO_OBJECT = "failed to create typed patch object"
"""What a server says, with 500, of an applied object that does not fit its kind: an unknown field, an entry that stands twice."""


class FieldConflict(Conflict):
    """Fields to be applied belong to others.

    Parameters
    ----------
    managers
        To whom.
    """

    def __init__(self, message: str, managers: tuple[str, ...]) -> None:
        super().__init__(message)
        self.managers = managers


class Api:
    """Reads and writes objects by their path, such as ``/apis/apps/v1/namespaces/default/deployments/x``.

    Parameters
    ----------
    client
        A `kubernetes.client.ApiClient`.
    """

    def __init__(self, client: Any) -> None:
        self._configuration = client.configuration
        self._pool = client.rest_client.pool_manager

    def get(self, path: str, *, metadata_only: bool = False) -> Object | None:
        """Read an object; None where it is not there."""
        only = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
        try:
            return self._json("GET", path, accept=only if metadata_only else "application/json")
        except _NotFound:
            return None

    def list(self, path: str, selector: Mapping[str, str]) -> list[Object]:
        """Read all objects with these labels, page by page, as they were at one moment.

        Raises
        ------
        Unavailable
            Page by page it takes longer than the server remembers, several times in a row.
        """
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in selector.items()), "limit": str(PAGE)}
        found: list[Object] = []
        token, begun = "", 1
        while True:
            try:
                page = self._json("GET", path, query | ({"continue": token} if token else {}))
            except _Expired:  # the list took longer than the server remembers: from the beginning
                if not token or begun == LISTS:
                    raise
                found, token, begun = [], "", begun + 1
                continue
            found += page.get("items", [])
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return found

    def create(self, path: str, body: Object) -> Object:
        """Make an object; `path` is that of its collection.

        Raises
        ------
        Conflict
            It is there already.
        """
        return self._json("POST", path, {"fieldManager": MANAGER}, body)

    def replace(self, path: str, body: Object) -> Object:
        """Write an object that was read; its `resourceVersion` must still be the same.

        Raises
        ------
        Conflict
            It was changed, or deleted, since.
        """
        return self._json("PUT", path, {"fieldManager": MANAGER}, body)

    def apply(self, path: str, body: Object, *, manager: str = MANAGER, force: bool = False) -> Object:
        """Apply an object server-side: make it, or change the fields that `body` has and take away those that the manager applied before.

        Raises
        ------
        FieldConflict
            Other managers own some, and `force` is false.
        """
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return self._json("PATCH", path, query, body, content="application/apply-patch+yaml")

    def merge(self, path: str, body: Object) -> Object:
        """Change the fields that `body` has; null takes one away."""
        return self._json("PATCH", path, {"fieldManager": MANAGER}, body, content="application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object, and then what it owns; nothing happens where it is not there."""
        try:
            self._json("DELETE", path, {"propagationPolicy": "Background"})
        except _NotFound:
            return

    def watch(self, path: str, name: str, seconds: int) -> Iterator[Object]:
        """Yield an object each time it changes, for as long as the server keeps the connection; whoever wants more asks again.

        Raises
        ------
        Unavailable
            The connection broke, or the server says that it cannot go on. That it has forgotten what came in between (410) is none: a
            watch begins with the object as it is.
        """
        query = {"watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": str(seconds)}
        response = self._request("GET", path, query, timeout_s=seconds + REQUEST_TIMEOUT_S)
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event.get("type") in ("ADDED", "MODIFIED"):
                    yield event["object"]
                elif event.get("type") == "DELETED":
                    return
                elif event.get("type") == "ERROR":
                    said = event.get("object") or {}
                    if said.get("code") == GONE:
                        return
                    raise Unavailable(f"watching {path} ended: {said.get('code')} {said.get('message')}")
        except (HTTPError, OSError, ValueError) as error:
            raise Unavailable(f"watching {path} ended: {error}") from error
        finally:
            response.close()

    def lines(self, path: str, query: Mapping[str, str], silence_s: float) -> Generator[bytes, None, None]:
        """Yield the lines of a text as they come, such as a pod's log, until the server ends it.

        Parameters
        ----------
        silence_s
            Without a byte for so long it counts as broken.
        """
        response = self._request("GET", path, query, accept="*/*", timeout_s=silence_s)
        try:
            yield from _lines(response)
        except (HTTPError, OSError) as error:
            raise Unavailable(f"reading {path} ended: {error}") from error
        finally:
            response.close()

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        accept: str = "application/json",
        content: str = "application/json",
    ) -> Object:
        response = self._request(method, path, query, body, accept=accept, content=content)
        try:
            found = json.loads(response.data)
        except (HTTPError, OSError, ValueError) as error:
            raise Unavailable(f"{method} {path}: the answer broke off: {error}") from error
        if not isinstance(found, dict):
            raise Unavailable(f"{method} {path}: the answer is no object")
        return found

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        accept: str = "application/json",
        content: str = "application/json",
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Any:
        headers = {"Accept": accept} | ({"Content-Type": content} if body is not None else {})
        for auth in self._configuration.auth_settings().values():
            if auth.get("in") == "header" and auth.get("value"):
                headers[auth["key"]] = auth["value"]
        url = self._configuration.host.rstrip("/") + quote(path) + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(total=timeout_s),
                retries=False,
                preload_content=False,
            )
            if response.status < 300:
                return response
            text = response.data
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{method} {path}: the API server does not answer: {error}") from error
        raise _error_of(method, path, response.status, response.headers.get("Retry-After"), text)


class _NotFound(Refused):
    """404."""


class _Expired(Unavailable):
    """410: what was read is too old to be read on."""


def _error_of(method: str, path: str, status: int, retry_after: str | None, text: bytes) -> Exception:
    try:
        answer = json.loads(text)
        said = str(answer.get("message", ""))
        causes = (answer.get("details") or {}).get("causes") or []
    except (ValueError, AttributeError):
        said, causes = text[:200].decode(errors="replace"), []
    message = f"{method} {path}: {status} {said}".strip()
    if status == NOT_FOUND:
        return _NotFound(message)
    if status == GONE:
        return _Expired(message)
    if status == CONFLICT:
        told = " ".join([said, *(str(cause.get("message", "")) for cause in causes)])
        managers = tuple(sorted(set(re.findall(r'conflicts? with "([^"]+)"', told))))
        return FieldConflict(message, managers) if managers else Conflict(message)
    if NO_OBJECT in said:
        return Refused(message)
    # 401: a token that ran out is renewed with the next request.
    if status in (TOO_MANY, UNAUTHORIZED) or status >= 500:
        return Unavailable(message, float(retry_after) if retry_after and retry_after.isdigit() else None)
    return Refused(message)


def _lines(response: Any) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())


def connect(context: str | None = None) -> Api:
    """Reach the cluster that this process runs in, else the one of the kubeconfig.

    Raises
    ------
    Refused
        There is neither.
    """
    from kubernetes import client, config

    load: Any = config
    try:
        if context is None:
            try:
                load.load_incluster_config()
            except config.ConfigException:
                load.load_kube_config()
        else:
            load.load_kube_config(context=context)
    except config.ConfigException as error:
        raise Refused(f"no cluster can be reached: {error}; set KUBECONFIG, or run in a pod with a service account") from error
    return Api(client.ApiClient())
