"""The arms as processes of this machine: started, watched, replaced without a lost request, ended.

Nothing runs beside the engine: whenever it asks for a state, what has come about since is settled. A new version of an arm is started
beside the old one on a port of its own; once it is ready, the proxy sends requests to it alone; then the old one is told to end.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from k8s.errors import Refused
from k8s.local.processes import Processes, free_port
from k8s.local.proxy import HEALTH_PATH
from k8s.rollout.arms import ARMS, Arm, ArmState, Release
from k8s.routing.envoy import EnvoyRouter
from k8s.routing.envoy_tables import LOOPBACK
from serving.contract.files import write_bytes

MAX_RESTARTS = 3
"""A version that dies again and again is left dead, so that its log can be read; Kubernetes goes on, with longer and longer pauses."""

PROBE_TIMEOUT_S = 1.0

MAX_SAID_BYTES = 1000
"""Of why a process is not ready; the reason is told to a person in one line."""

LOCAL_SETTINGS = {
    # Whoever is told to end gets no new requests any more by then: the proxy was told first.
    "PILOTAGE_DRAIN_S": "0.2",
    "BENTOML_DO_NOT_TRACK": "True",
}


@dataclass(frozen=True)
class Launch:
    """How a process is started: its command line, and what it has in its environment beside ours."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Launcher(Protocol):
    """Turns a release into a process that answers on a port."""

    def __call__(self, release: Release, port: int) -> Launch:
        """Return how to start it; raise `Refused` where it cannot be."""
        ...


@dataclass(frozen=True)
class Generation:
    """One process of an arm.

    Attributes
    ----------
    name
        Of the process: the arm and a number.
    starts
        How often it has been started.
    """

    name: str
    release: Release
    port: int
    starts: int = 0


@dataclass(frozen=True)
class ArmRecord:
    """What an arm is to be, as it stands on disk.

    Attributes
    ----------
    current
        Who gets the requests.
    coming
        Who shall get them once it is ready.
    made
        Generations so far.
    """

    current: Generation | None = None
    coming: Generation | None = None
    made: int = 0

    def generations(self) -> list[Generation]:
        """Return who there is to be, the one with the requests first."""
        return [each for each in (self.current, self.coming) if each is not None]


def serve_bundle(release: Release, port: int) -> Launch:
    """Serve the bundle of a release with ``pilotage serve``; ``values.env`` are settings of the service (docs/serving.md)."""
    path = release.bundle.get("path")
    if not isinstance(path, str) or not Path(path).is_dir():
        raise Refused(f"release {release.name}: a laptop serves a folder, bundle.path is {path!r}; name the folder of a bundle")
    if release.image is not None:
        raise Refused(f"release {release.name}: no image is run on a laptop; leave image out, and name the folder of a bundle")
    settings = release.values.get("env", {})
    environment = {str(name): str(value) for name, value in settings.items()}
    return Launch([sys.executable, "-m", "pilotage.cli", "serve", path, "--host", LOOPBACK, "--port", str(port)], environment)


class LocalFleet:
    """Runs the arms on this machine; a `Fleet`.

    One process an arm, however many are asked for: a laptop has no more cores for more.

    Parameters
    ----------
    folder
        For what stands on disk.
    processes
        Shared with the proxy; processes called after an arm are this fleet's.
    launcher
        How a release is started.
    """

    def __init__(
        self,
        folder: Path,
        router: EnvoyRouter,
        processes: Processes,
        launcher: Launcher = serve_bundle,
        health_path: str = HEALTH_PATH,
    ) -> None:
        self._folder, self._router, self._processes = folder, router, processes
        self._launcher, self._health_path = launcher, health_path

    def ensure(self, arm: Arm, release: Release, replicas: int | None = None) -> None:
        """Make the arm run this release; return without waiting until it does.

        Raises
        ------
        Refused
            The release cannot be run on a laptop.
        """
        record = self._load(arm)
        if not release.bundle and arm != "stable":
            release = replace(release, bundle=self.stable_release().bundle)
        elif not release.bundle and record.current is not None:
            release = replace(release, bundle=record.current.release.bundle)
        newest = record.coming or record.current
        if newest is None or newest.release != release:
            if record.current is not None and record.current.release == release:
                record = replace(record, coming=None)  # back to who still has the requests
            else:
                self._launcher(release, 1)  # refuse before anything is changed
                number = record.made + 1
                record = replace(record, coming=Generation(f"{arm}-{number}", release, free_port()), made=number)
            self._save(arm, record)
        self._settle(arm)

    def state(self, arm: Arm) -> ArmState:
        """How the arm is now."""
        record = self._settle(arm)
        newest = record.coming or record.current
        if newest is None:
            return ArmState()
        healthy = self._router.healthy(arm)
        ready = int(record.current is not None and record.current.port in healthy)
        reason = self._reason(record, newest, bool(ready))
        settled = record.coming is None and ready
        return ArmState(
            release=newest.release.name if settled else None,
            # Who is on the way out still answers; it is not what the arm was asked to be.
            ready=ready,
            wanted=1,
            restarts=max(newest.starts - 1, 0),
            # A process that starts has not loaded its model yet: how large it is then says nothing.
            memory_bytes=self._processes.memory_bytes(newest.name) if settled else None,
            reason=reason,
        )

    def stable_release(self) -> Release:
        """What stable runs: who has the requests, until another has them."""
        record = self._load("stable")
        serving = record.current or record.coming
        if serving is None:
            raise Refused("nothing is served yet: start the stable version first")
        return serving.release

    def floor(self, replicas: int | None) -> None:
        """Nothing scales here."""

    def remove(self, arm: Arm) -> None:
        """Take the arm away: first its requests, then its processes. Stable is never removed.

        Raises
        ------
        Refused
            It is stable.
        """
        if arm == "stable":
            raise Refused("stable is never removed; `close` ends everything")
        record = self._load(arm)
        if not record.generations() and not self._running(arm):
            return
        self._router.point(arm, ())
        self._save(arm, replace(record, current=None, coming=None))
        self._sweep(arm, keep=())

    def close(self) -> None:
        """End the processes of all arms, and forget them."""
        for arm in ARMS:
            self._router.point(arm, ())
            self._save(arm, replace(self._load(arm), current=None, coming=None))
            self._sweep(arm, keep=())

    def _settle(self, arm: Arm) -> ArmRecord:
        """Bring about what can be brought about now."""
        record = self._load(arm)
        self._sweep(arm, keep=[each.name for each in record.generations()])
        for generation in record.generations():
            if self._processes.find(generation.name) is None and generation.starts <= MAX_RESTARTS:
                record = self._start(arm, record, generation)
        coming, current = record.coming, record.current
        if coming is None or self._ask(coming)[0] != HTTPStatus.OK:
            return record
        ports = [each.port for each in record.generations()]
        if self._router.ports(arm) != sorted(ports):
            self._router.point(arm, ports)
        if coming.port not in self._router.healthy(arm):
            return record  # the proxy has not checked it yet; asked again soon
        self._router.point(arm, [coming.port])
        record = replace(record, current=coming, coming=None)
        self._save(arm, record)
        if current is not None:
            self._sweep(arm, keep=[coming.name])
        return record

    def _start(self, arm: Arm, record: ArmRecord, generation: Generation) -> ArmRecord:
        begun = replace(generation, starts=generation.starts + 1)
        record = replace(record, coming=begun) if generation is record.coming else replace(record, current=begun)
        self._save(arm, record)
        launch = self._launcher(begun.release, begun.port)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTAGE_", "BENTOML_", "PROMETHEUS_"))}
        self._processes.start(begun.name, launch.command, {**inherited, **LOCAL_SETTINGS, **launch.environment})
        return record

    def _reason(self, record: ArmRecord, newest: Generation, ready: bool) -> str | None:
        if self._processes.find(newest.name) is None:
            code = self._processes.exit_code(newest.name)
            ended = "has ended" if code is None else f"ended with exit code {code}"
            return f"{newest.name} {ended}, after {newest.starts} starts: {self._processes.tail(newest.name)}"
        if record.coming is not None:
            _, said = self._ask(newest)
            return f"{newest.name} starts" + (f", and says: {said}" if said else "")
        return None if ready else f"{newest.name} does not answer {self._health_path} with 200"

    def _ask(self, generation: Generation) -> tuple[int, str]:
        """Status of a process's health, and what it says of it; 0 where it says nothing."""
        connection = http.client.HTTPConnection(LOOPBACK, generation.port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", self._health_path)
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_SAID_BYTES).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def _running(self, arm: Arm) -> list[str]:
        return [name for name in self._processes.names() if name.rpartition("-")[0] == arm]

    def _sweep(self, arm: Arm, keep: Sequence[str]) -> None:
        """End what runs under the arm's name and is not to be: who was replaced, or what we were killed over."""
        for name in self._running(arm):
            if name not in keep:
                self._processes.end(name)

    def _load(self, arm: Arm) -> ArmRecord:
        path = self._path(arm)
        try:
            document = json.loads(path.read_bytes())
            return ArmRecord(_generation(document["current"]), _generation(document["coming"]), int(document["made"]))
        except FileNotFoundError:
            return ArmRecord()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refused(f"{path} is not a file of ours ({error!r}): end what it names by hand, and remove it") from error

    def _save(self, arm: Arm, record: ArmRecord) -> None:
        write_bytes(self._path(arm), json.dumps(asdict(record), indent=1).encode())

    def _path(self, arm: Arm) -> Path:
        return self._folder / f"arm-{arm}.json"


def _generation(document: Mapping[str, Any] | None) -> Generation | None:
    return None if document is None else Generation(**{**document, "release": Release(**document["release"])})
