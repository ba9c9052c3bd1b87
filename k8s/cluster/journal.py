"""The journal as a ConfigMap, owned by server-side apply: the engine its record, whoever asks for something the request.

It goes with the installation: one that is left of an earlier installation says nothing about this one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from k8s.cluster.api import MANAGER, Api, FieldConflict, Object
from k8s.cluster.belonging import Belonging
from k8s.cluster.names import Names
from k8s.errors import Conflict, Refused
from k8s.rollout.ports import Stored
from k8s.rollout.record import Record, Request

RECORD, HISTORY = "record.json", "history.json"

REQUEST_ANNOTATION = "pilotage.dev/request"
"""An annotation, so that the engine reads it with the metadata alone: the record may have hundreds of kilobytes."""

REQUEST_MANAGER, HISTORY_MANAGER = "pilotage-rollout-request", "pilotage-rollout-history"

MAX_FINISHED, MAX_HISTORY_BYTES = 10, 400_000
"""Finished rollouts that are kept, as many as fit: an object of the API may have 1 MiB, the current record a third of it."""

TRIES = 5
"""For somebody else's writes in between: whoever asks for something writes to the same object."""


class ConfigMapJournal:
    """Stores the record under a version made of its text, so that it does not matter what else in the object changes."""

    def __init__(self, api: Api, names: Names) -> None:
        self._api, self._names = api, names
        self._path = names.config_map(names.journal)
        self._belonging = Belonging(api, names)

    def load(self) -> Stored | None:
        """Return the record of the current or last rollout."""
        return _stored(self._read())

    def save(self, record: Record, expected_version: str | None) -> str:
        """Write the record; a finished one that gives way goes into the history."""
        text = record.to_json()
        for _ in range(TRIES):
            found = self._api.get(self._path)
            stored = _stored(found)
            if stored is not None and expected_version is None and self._belonging.is_gone(found or {}):
                self._apply({}, HISTORY_MANAGER, found, force=True)  # its history goes too
                found, stored = self._api.get(self._path), None
            if (stored.version if stored else None) != expected_version:
                raise Conflict(f"{self._names.journal} was written by another engine since it was read")
            if stored is not None and stored.record.id != record.id:
                self._keep(found, stored.record)
                found = self._api.get(self._path)
            try:
                self._apply({"data": {RECORD: text}, "metadata": self._belonging.metadata}, MANAGER, found)
            except FieldConflict as error:
                raise Refused(f"{error}: the record of a rollout is nobody else's to write") from error
            except Conflict:
                continue
            return _version(text)
        raise Conflict(f"{self._names.journal} is written by others all the time")

    def history(self) -> list[Record]:
        """Return finished rollouts and the current one, oldest first."""
        found = self._read()
        stored = _stored(found)
        return [*_finished(found), *([stored.record] if stored else [])]

    def request(self) -> Request | None:
        """Return what a person asked for last."""
        found = self._api.get(self._path, metadata_only=True) or {}
        text = (found.get("metadata", {}).get("annotations") or {}).get(REQUEST_ANNOTATION)
        try:
            return Request.model_validate_json(text) if text else None
        except ValidationError:
            return None

    def ask(self, request: Request) -> None:
        """Write down what a person asks for."""
        self._apply({"metadata": {"annotations": {REQUEST_ANNOTATION: request.model_dump_json()}}}, REQUEST_MANAGER, None, force=True)

    def _read(self) -> Object | None:
        """Read it, where it is not that of an earlier installation: going on with that one would change this one."""
        found = self._api.get(self._path)
        return None if found is not None and self._belonging.is_gone(found) else found

    def _keep(self, found: Object | None, finished: Record) -> None:
        kept = [*_finished(found), finished][-MAX_FINISHED:]
        while len(_together(kept).encode()) > MAX_HISTORY_BYTES:
            if len(kept) > 1:
                kept.pop(0)
            else:
                kept, whole = [kept[0].within(MAX_HISTORY_BYTES - len("[]"))], kept
                if kept == whole:
                    break
        self._apply({"data": {HISTORY: _together(kept)}}, HISTORY_MANAGER, found, force=True)

    def _apply(self, body: dict[str, Any], manager: str, found: Object | None, *, force: bool = False) -> None:
        metadata: Object = {"name": self._names.journal, "namespace": self._names.namespace} | body.get("metadata", {})
        if found is not None:  # only if nobody wrote since
            metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
        whole = {"apiVersion": "v1", "kind": "ConfigMap", **body, "metadata": metadata}
        self._api.apply(self._path, whole, manager=manager, force=force)


def _stored(found: Object | None) -> Stored | None:
    text = ((found or {}).get("data") or {}).get(RECORD)
    return Stored(Record.from_json(text), _version(text)) if text else None


def _finished(found: Object | None) -> list[Record]:
    text = ((found or {}).get("data") or {}).get(HISTORY)
    return [Record.from_json(json.dumps(each)) for each in json.loads(text)] if text else []


def _together(records: Sequence[Record]) -> str:
    return json.dumps([json.loads(record.to_json()) for record in records], ensure_ascii=False)


def _version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
