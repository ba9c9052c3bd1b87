"""What a rollout decides, as a values file of the chart: for clusters where a GitOps controller, or a pipeline, makes everything of values.

The file is the rollout's own, one more `-f` after yours: it holds what the rollout decides and nothing else, and is written anew each time,
without comments. A file in which somebody else has said something is refused.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from k8s.errors import Refused, Unavailable
from serving.contract.files import write_bytes

HEAD = "# Written by `pilotage rollout` (--values): what the rollout decides, and nothing else.\n"

COMMAND_LIMIT_S = 120.0
"""For a commit and a push."""

BREATH_S = 5.0
"""While the command runs, so often somebody else is let do something: the lease lasts several times as long."""

Values = dict[str, Any]

ARM_KEYS: Mapping[str, Any] = {"enabled": None, "replicas": None, "image": None, "bundles": None}

OWNED: Mapping[str, Any] = {
    "image": None,
    "bundles": None,
    "baseline": ARM_KEYS,
    "canary": ARM_KEYS,
    "traffic": {"weights": None, "mirror": None},
    "autoscaling": {"minReplicas": None},
    "rollout": {"change": None},
}
"""What a rollout writes; None: with all that is below it."""


class ValuesFile:
    """Reads and writes the file, and runs a command after each change.

    Parameters
    ----------
    command
        Such as a script that commits and pushes; empty: somebody else looks at the file. It may be run again with nothing changed, by an
        engine that does not know how far the one before it came.
    marked
        Whether each change gets a mark of its own, ``rollout.change``, by which one finds out when it is in the cluster.

    Attributes
    ----------
    meanwhile
        Called every few seconds while the command runs; what it raises ends the command.
    """

    def __init__(self, path: Path, command: str = "", *, marked: bool = False) -> None:
        self._path, self._command, self._marked = path, command, marked
        self._told: bytes | None = None
        self._read: tuple[bytes, Values] = b"", {}
        self.meanwhile: Callable[[], object] = lambda: None

    def __str__(self) -> str:
        """Return what a message calls it."""
        return str(self._path)

    def read(self) -> Values:
        """Return what it says; nothing where it is not there. Asked for several times a look, it is parsed when it has changed.

        Raises
        ------
        Refused
            It is no YAML, or has values that are not the rollout's.
        """
        try:
            content = self._path.read_bytes()
            if content == self._read[0]:
                return copy.deepcopy(self._read[1])
            found = yaml.safe_load(content) or {}
        except FileNotFoundError:
            return {}
        except (OSError, yaml.YAMLError) as error:
            raise Refused(f"{self._path} cannot be read: {error}") from error
        foreign = _foreign(found, OWNED) if isinstance(found, dict) else ["no mapping"]
        if foreign:
            raise Refused(f"{self._path} has {', '.join(foreign)}: give the rollout a file of its own, one more -f after yours")
        self._read = content, found
        return copy.deepcopy(found)

    @property
    def mark(self) -> str:
        """Mark of the last change; empty before the first."""
        return str((self.read().get("rollout") or {}).get("change", ""))

    def change(self, do: Callable[[Values], None], *, again: bool) -> None:
        """Change it, and run the command.

        Parameters
        ----------
        do
            Changes what it is given: what the file says.
        again
            Whether to run the command also where this program has run it already, and nothing has changed since.

        Raises
        ------
        Refused
            The file cannot be read or written.
        Unavailable
            The command failed.
        """
        old = self.read()
        new = copy.deepcopy(old)
        do(new)
        new = _pruned(new)
        if new != old and self._marked:
            text = yaml.safe_dump(new).encode()
            # Of the change before too: what is the same as it was some time ago is another change all the same.
            new.setdefault("rollout", {})["change"] = hashlib.sha256(self.mark.encode() + text).hexdigest()[:8]
        content = (HEAD + yaml.safe_dump(new, sort_keys=False)).encode()
        if new != old or not self._path.exists():
            try:
                write_bytes(self._path, content)
            except OSError as error:
                raise Refused(f"{self._path} cannot be written: {error}") from error
        if again or content != self._told:
            self._told = None
            self._run()
            self._told = content

    def _run(self) -> None:
        if not self._command:
            return
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    shlex.split(self._command), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                raise Unavailable(f"{self._command}: {error}") from error
            try:
                self._wait(process)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if process.returncode:
                said.seek(0)
                told = said.read()[-300:].decode(errors="replace").strip()
                raise Unavailable(f"{self._command} ended with {process.returncode}: {told}")

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        for _ in range(round(COMMAND_LIMIT_S / BREATH_S)):
            try:
                process.wait(BREATH_S)
                return
            except subprocess.TimeoutExpired:
                self.meanwhile()
        raise Unavailable(f"{self._command} did not end within {COMMAND_LIMIT_S:g} s")


def image_values(image: str) -> Values:
    """Return an image as the chart's values say it: by digest, or by tag where it has none."""
    repository, _, digest = image.partition("@")
    if digest:
        return {"repository": repository, "digest": digest}
    folder, slash, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return {"repository": folder + slash + name, "digest": "", "tag": tag}


def _foreign(found: Mapping[str, Any], owned: Mapping[str, Any], path: str = "") -> list[str]:
    """Return what is not the rollout's, by dotted path."""
    named: list[str] = []
    for key, value in found.items():
        if key not in owned:
            named.append(f"{path}{key}")
        elif owned[key] is not None:
            named += _foreign(value, owned[key], f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key} in another form"]
    return named


def _pruned(values: Values) -> Values:
    """Return them without tables that have become empty."""
    return {key: value for key, value in values.items() if value != {}}
