"""A promotion as a values file: for clusters where a GitOps controller, or a pipeline, makes stable of the chart's values.

The file holds what the rollout decides and nothing else; it is one more `-f`, after your own.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import yaml

from k8s.errors import Refused, Unavailable
from k8s.rollout.ports import Release
from serving.contract.files import write_bytes

HEAD = "# Written by `pilotage rollout` (--values): the release that stable runs.\n"

COMMAND_LIMIT_S = 120.0
"""For a commit and a push."""


class ValuesFile:
    """Writes the release of stable into values.

    Parameters
    ----------
    command
        Run after each change, such as a script that commits and pushes; empty: somebody else looks at the file.
    """

    def __init__(self, path: Path, command: str = "") -> None:
        self._path, self._command = path, command

    def write(self, stable: Release, release: Release) -> None:
        """Write the release, unless the file has it already and the command is not needed.

        Raises
        ------
        Refused
            It cannot be said by values of the image alone.
        Unavailable
            The command failed.
        """
        if release.bundle and dict(release.bundle) != dict(stable.bundle):
            raise Refused(f"{release.name} has other bundles than stable, and {self._path} says the image alone")
        repository, _, digest = str(release.image).partition("@")
        if not digest:
            raise Refused(f"image {release.image} has no digest: values of a promotion name one")
        text = HEAD + yaml.safe_dump({"image": {"repository": repository, "digest": digest}})
        write_bytes(self._path, text.encode())
        if not self._command:
            return
        try:
            done = subprocess.run(shlex.split(self._command), capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{self._command}: {error}") from error
        if done.returncode:
            raise Unavailable(f"{self._command} ended with {done.returncode}: {done.stderr[-300:].strip()}")
