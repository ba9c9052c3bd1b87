"""Named lists of labels: registered once, then asked for by name by any request to any worker.

One file a set, which appears whole or not at all. Every worker reads the folder, so that a set is there for all of them, and after a
restart, from the moment when it is written.
"""

from __future__ import annotations

import logging
import re
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from serving.clip.label_rules import refuse, shown
from serving.clip.prompts import Templates, templates_of
from serving.contract.errors import InvalidRequest, RequestError
from serving.contract.files import write_bytes

log = logging.getLogger("pilotage")

MAX_SETS = 1000
SUFFIX = ".json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""As of models; no such name leads out of a folder or is hidden in one."""

_Stamp = tuple[int, int]


class UnknownLabelSet(RequestError):
    """No label set of this name is registered."""

    status = 404
    code = "unknown_label_set"


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """What a file holds."""

    labels: list[str]
    templates: str | list[str] | None
    registered_at: datetime


class LabelSet(msgspec.Struct, frozen=True):
    """A registered set.

    Attributes
    ----------
    templates
        None leaves the choice to the model that is asked.
    """

    name: str
    labels: tuple[str, ...]
    templates: Templates | None
    registered_at: datetime


class LabelSets:
    """The sets of a folder.

    Parameters
    ----------
    folder
        Made when the first set is registered.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[_Stamp, LabelSet]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names of all sets, in alphabetical order."""
        with suppress(OSError):
            return sorted(path.stem for path in self._folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.stem))
        return []

    def get(self, name: str) -> LabelSet:
        """Return a set as it is on disk now.

        Raises
        ------
        UnknownLabelSet
            There is none of this name, or its file is damaged.
        """
        path = self._path(name)
        try:
            status = path.stat()
        except OSError as error:
            raise self._unknown(name) from error
        stamp = (status.st_ino, status.st_mtime_ns)
        with self._lock:
            known = self._read.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            document = msgspec.json.decode(path.read_bytes(), type=_Document)
            templates = None if document.templates is None else templates_of(document.templates, "single")
        except (OSError, msgspec.DecodeError, InvalidRequest) as error:
            log.error("label set %r cannot be read and must be registered anew: %s", name, error, extra={"file": str(path)})
            raise self._unknown(name) from error
        found = LabelSet(name, tuple(document.labels), templates, document.registered_at)
        with self._lock:
            self._read[name] = stamp, found
        return found

    def put(self, name: str, labels: tuple[str, ...], templates: Templates | None) -> tuple[LabelSet, bool]:
        """Register a set, in place of one of the same name if there is one.

        Parameters
        ----------
        labels
            Checked by `label_rules.require_labels`.

        Returns
        -------
        tuple
            The set, and whether it is new.

        Raises
        ------
        InvalidRequest
            The name cannot be used, or there are too many sets.
        OSError
            The folder cannot be written.
        """
        if not _NAME.fullmatch(name):
            refuse(
                "name", f"a label set is called by 1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit; not {shown(name)}"
            )
        path, names = self._path(name), self.names()
        is_new = name not in names
        if is_new and len(names) >= MAX_SETS:
            refuse("name", f"there are {MAX_SETS} label sets already, the most that are kept; delete one first")
        made = LabelSet(name, labels, templates, datetime.now(UTC))
        document = _Document(list(labels), None if templates is None else templates.shown, made.registered_at)
        write_bytes(path, msgspec.json.encode(document))
        return made, is_new

    def delete(self, name: str) -> None:
        """Forget a set; requests that are under way keep what they have read.

        Raises
        ------
        UnknownLabelSet
            There is none of this name.
        """
        try:
            self._path(name).unlink()
        except OSError as error:
            raise self._unknown(name) from error
        with self._lock:
            self._read.pop(name, None)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            return self._folder / "no such name"  # never written, so never found
        return self._folder / f"{name}{SUFFIX}"

    def _unknown(self, name: str) -> UnknownLabelSet:
        return UnknownLabelSet(
            f"no label set {shown(name)} is registered; GET /v1/label-sets lists those that are, PUT /v1/label-sets/NAME registers one"
        )
