"""A rollout's whole world on one machine: a real Envoy, real services behind it, a folder with all that is known."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from k8s.errors import Unavailable
from k8s.local.fleet import Launcher, LocalFleet, serve_bundle
from k8s.local.processes import Processes
from k8s.local.proxy import HEALTH_PATH, ensure_envoy
from k8s.local.traffic import Generator, LocalTraffic, LocustLoad
from k8s.rollout.arms import Release
from k8s.rollout.clock import SystemClock
from k8s.rollout.collector import Collector
from k8s.rollout.comparing import requests_of
from k8s.rollout.disk import DiskJournal, DiskLease
from k8s.rollout.loading import Comparing
from k8s.rollout.plan import Plan
from k8s.rollout.ports import Notice
from k8s.rollout.record import Record
from k8s.rollout.start import begin, engine_name, held
from k8s.rollout.world import World
from k8s.routing.envoy_tables import ENGINE, LOOPBACK

READY_LIMIT_S = 120.0
"""For the first version: a large model takes seconds, a laptop that is busy takes minutes."""

POLL_S = 0.1

PROCESSES, LOAD = "processes", "load"
"""Folders of what runs: the arms and the proxy, which may outlive an engine, and the generator, which does not."""


class Laptop:
    """Envoy on a port of loopback, and the arms behind it.

    Parameters
    ----------
    folder
        For everything. Whoever comes next with the same folder finds what runs, and goes on from there.
    port
        Where callers ask.
    end_with_us
        Whether all of it ends when this program dies: for demonstrations and benchmarks. A service that is to stay must not.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        launcher: Launcher = serve_bundle,
        health_path: str = HEALTH_PATH,
        end_with_us: bool = False,
    ) -> None:
        self.folder = folder.resolve()
        self.host = f"http://{LOOPBACK}:{port}"
        self._processes = Processes(self.folder / PROCESSES, end_with_us=end_with_us)
        # A generator without an engine would load for nobody.
        self._load = Processes(self.folder / LOAD, end_with_us=True)
        self.router = ensure_envoy(self.folder / "envoy", self._processes, port, health_path)
        self.fleet = LocalFleet(self.folder / "arms", self.router, self._processes, launcher, health_path)
        self.journal = DiskJournal(self.folder / "journal")

    def serve(self, release: Release, limit_s: float = READY_LIMIT_S) -> None:
        """Have stable run a release before there is any rollout, and wait until it does.

        Raises
        ------
        Unavailable
            It is not ready in time; the message says why.
        """
        self.fleet.ensure("stable", release)
        deadline = time.monotonic() + limit_s
        while (state := self.fleet.state("stable")).release != release.name:
            if time.monotonic() > deadline:
                raise Unavailable(f"{release.name} is not ready after {limit_s:.0f} s: {state.reason}")
            time.sleep(POLL_S)

    def world(
        self,
        plan: Plan,
        engine: str,
        *,
        requests_file: Path | None = None,
        generator: Generator | None = None,
        notices: Sequence[Notice] = (),
    ) -> World:
        """Return what an engine acts on.

        Parameters
        ----------
        requests_file
            Recorded requests, to load with, and to compare answers on unless the plan has live requests copied for that; without it
            requests are made up.
        generator
            Who sends; Locust by default.

        Raises
        ------
        SettingsError
            The recorded requests cannot be read.
        """
        limits = plan.answers
        recorded, sent = requests_of(requests_file, limits)
        workers = (plan.synthetic.workers if plan.synthetic else None) or 0
        load = generator or LocustLoad(self.host, plan, sent, processes=workers if workers > 1 else 0)
        collector = Collector(LOOPBACK, 0, lambda ports: self.router.point(ENGINE, ports)) if plan.collects else None
        traffic = LocalTraffic(self._load, load, Comparing(self.host, limits, recorded, collector))
        return World(
            router=self.router,
            fleet=self.fleet,
            traffic={"synthetic": traffic},
            journal=self.journal,
            lease=DiskLease(self.folder / "journal", engine),
            clock=SystemClock(),
            answers=Plan.answers_judge if recorded or plan.collects else None,
            collects=plan.collects,
            notices=notices,
        )

    def roll_out(
        self,
        plan: Plan,
        *releases: Release,
        requests_file: Path | None = None,
        generator: Generator | None = None,
        notices: Sequence[Notice] = (),
    ) -> Record:
        """Roll one of these releases out; where a rollout of them is under way, go on with it. Other arguments as of `world`.

        Raises
        ------
        RolloutError
            It could not be carried on; calling again goes on from there.
        """
        engine = engine_name()
        world = self.world(plan, engine, requests_file=requests_file, generator=generator, notices=notices)
        with held(world.lease, world.clock):
            return begin(world, self.folder.name, plan, releases, engine).run()

    def close(self) -> None:
        """End all of it."""
        self._load.end_all()
        self._processes.end_all()


def clear(folder: Path) -> None:
    """End what still runs for a folder, and remove it: a new beginning."""
    for name in (LOAD, PROCESSES):
        Processes(folder.resolve() / name).end_all()
    shutil.rmtree(folder, ignore_errors=True)
