"""A rollout's whole world on a cluster: one installation of the chart, seen from a Job beside it or from a laptop with a kubeconfig."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from k8s.cluster.api import Api, connect
from k8s.cluster.applied import applied_values
from k8s.cluster.fleet import DeploymentFleet
from k8s.cluster.journal import RECORD, ConfigMapJournal
from k8s.cluster.lease import ClusterLease
from k8s.cluster.load_job import JobTraffic
from k8s.cluster.names import Names
from k8s.cluster.notices import EventNotice
from k8s.cluster.prometheus import Prometheus, PrometheusAccess
from k8s.cluster.releases import called_by_content
from k8s.cluster.values import ValuesFile
from k8s.cluster.values_fleet import ValuesFleet
from k8s.errors import Unavailable
from k8s.local.processes import Processes
from k8s.local.traffic import LocalTraffic, LocustLoad
from k8s.rollout.arms import ARMS, Arm, Release
from k8s.rollout.clock import SystemClock
from k8s.rollout.collector import Collector
from k8s.rollout.comparing import requests_of
from k8s.rollout.hands import renewed
from k8s.rollout.loading import Compared, Comparing
from k8s.rollout.patience import Patience
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Source, Synthetic, Times
from k8s.rollout.ports import Notice, Traffic
from k8s.rollout.record import Record
from k8s.rollout.world import World
from k8s.routing.by_values import ValuesRouter
from k8s.routing.gateway import GatewayRouter
from serving.contract.errors import SettingsError

WATCH_S = 60
"""For one watch; servers end them between 30 and 60 minutes, proxies after one."""


class Installation:
    """One installation of the chart.

    Parameters
    ----------
    take_over
        Field managers whose fields of stable a promotion may take over, beside Helm.
    values
        Where a promotion is written to, in place of the cluster; with ``rollout.writesTo: values`` of the chart everything else too.
    values_command
        Run after each change of it.
    """

    def __init__(self, names: Names, api: Api, take_over: Sequence[str] = (), values: Path | None = None, values_command: str = "") -> None:
        self.names, self._api, self._take_over = names, api, tuple(take_over)
        self._values, self._values_command = values, values_command
        self._clock = SystemClock()
        self.journal = ConfigMapJournal(api, names)

    @staticmethod
    def of(
        name: str, namespace: str, context: str | None, take_over: Sequence[str] = (), values: Path | None = None, values_command: str = ""
    ) -> Installation:
        """Reach one.

        Raises
        ------
        Refused
            There is no cluster.
        """
        return Installation(Names(namespace, name), connect(context), take_over, values, values_command)

    @cached_property
    def file(self) -> ValuesFile | None:
        """What is written in place of the cluster; None: nothing.

        Raises
        ------
        SettingsError
            The chart's values want everything in a file, and none was named.
        """
        if self._values is None:
            if self._by_values:
                raise SettingsError(
                    f"{self.names.name} is installed with rollout.writesTo: values: name the file of the rollout (--values)"
                )
            return None
        return ValuesFile(self._values, self._values_command, marked=self._by_values)

    @cached_property
    def fleet(self) -> DeploymentFleet | ValuesFleet:
        """Who runs the arms, as the chart's values want it."""
        if self._by_values and self.file is not None:
            return ValuesFleet(self._api, self.names, self.file)
        return DeploymentFleet(self._api, self.names, self._take_over, self.file)

    @cached_property
    def _by_values(self) -> bool:
        return Patience(self._clock, Times().api_s).call(lambda: applied_values(self._api, self.names)) is not None

    def releases(self, names: Sequence[str], images: Sequence[str]) -> list[Release]:
        """Return what is to be rolled out: the canaries of the chart's values, the preferred one first.

        Parameters
        ----------
        names
            For people, by position; who has none is called by what it runs.
        images
            In place of those of the values, by position. Where some are given, only so many releases are tried.

        Raises
        ------
        SettingsError
            An image has no digest, or the chart has not prepared an arm for each.
        """
        for image in images:
            if "@sha256:" not in image:
                raise SettingsError(f"image {image} has no digest: give name@sha256:…, since a tag may change under a running rollout")
        found = Patience(self._clock, Times().api_s).call(self.fleet.releases)
        if len(images) > len(found):
            raise SettingsError(
                f"{len(images)} images are given, and the chart has prepared {len(found)}: rollout.variants of its values must have"
                f" {len(images) - 1} of them"
            )
        tried = found[: len(images)] if images else found
        if len(names) > len(tried):
            raise SettingsError(f"{len(names)} names are given for {len(tried)} releases: {', '.join(names)}")
        wanted = [
            renamed(each if image is None else called_by_content(replace(each, image=image)), name)
            for each, name, image in zip_longest(tried, names, images, fillvalue=None)
            if each
        ]
        for each in wanted:
            self.fleet.recognise(each)
        return wanted

    def world(
        self,
        plan: Plan,
        engine: str,
        *,
        gateway: str | None = None,
        prometheus: PrometheusAccess | None = None,
        requests_file: Path | None = None,
        collect_at: str | None = None,
        notices: Sequence[Notice] = (),
    ) -> World:
        """Return what an engine acts on.

        Parameters
        ----------
        collect_at
            ``HOST:PORT`` where copies of live requests reach this engine, which the chart's Job says of its own pod; None: they do not.

        Raises
        ------
        SettingsError
            Recorded requests cannot be read, or nobody said where the gateway or Prometheus is.
        Refused
            The chart prepared no Job to load the arms.
        """
        traffic: dict[Source, Traffic] = {}
        here = None if collect_at is None else Collector.at(collect_at)  # a wrong address is told whatever the plan is
        collector = here if plan.collects else None
        recorded, sent = requests_of(requests_file, plan.answers)
        if recorded and gateway is None and collect_at is None:
            raise SettingsError("answers are compared through the gateway: give its address (--gateway); the chart's Job needs none")
        host = gateway or address(self.names, "stable")
        addresses: dict[Arm, str] = {} if gateway else {arm: address(self.names, arm) for arm in ARMS}
        comparing = Comparing(host, plan.answers, recorded, collector, addresses)
        if plan.synthetic is not None:
            traffic["synthetic"] = self._load(plan, plan.synthetic, host, addresses, sent, comparing)
        if plan.live is not None:
            access = prometheus or PrometheusAccess("")
            access = replace(access, url=plan.live.prometheus or access.url)
            if not access.url:
                raise SettingsError("the plan judges live traffic: give the address of Prometheus (--prometheus)")
            traffic["live"] = Prometheus(access, plan.live, self.names, self._clock)
            if plan.synthetic is None and (recorded or collector is not None):
                traffic["live"] = Compared(traffic["live"], comparing)
        lease = ClusterLease(self._api, self.names, self._clock, engine)
        if self.file is not None:
            self.file.meanwhile = lambda: renewed(lease)
        by_values = ValuesRouter(self._api, self.names, self.file) if self._by_values and self.file is not None else None
        return World(
            router=by_values or GatewayRouter(self._api, self.names),
            fleet=self.fleet,
            traffic=traffic,
            journal=self.journal,
            lease=lease,
            clock=self._clock,
            answers=Plan.answers_judge if recorded or collector is not None else None,
            collects=collector is not None,
            notices=[*notices, EventNotice(self._api, self.names)],
        )

    def _load(
        self, plan: Plan, asked: Synthetic, host: str, addresses: Mapping[Arm, str], sent: Path | None, comparing: Comparing
    ) -> LocalTraffic | JobTraffic:
        """Return who sends the requests of a step: a Job near the service, or this process."""
        if asked.workers == 0:
            # Samples of another engine's load are no use to this one: a folder of its own, which ends with the pod.
            processes = Processes(Path(tempfile.gettempdir()) / f"pilotage-rollout-{self.names.name}-{os.getpid()}", end_with_us=True)
            return LocalTraffic(processes, LocustLoad(host, plan, sent, addresses=addresses, profile=asked.profile), comparing)
        load = JobTraffic(self._api, self.names, self._clock, plan, host=host, addresses=addresses, comparing=comparing, requests_file=sent)
        Patience(self._clock, plan.times.api_s).call(load.prepared)  # what cannot be is told before anything begins
        return load

    def changes(self) -> Iterator[Record]:
        """Yield the record each time it is written; a watch that ends, or an API server that is away, is asked again."""
        path, _, name = self.names.config_map(self.names.journal).rpartition("/")
        while True:
            with suppress(Unavailable):
                for found in self._api.watch(path, name, WATCH_S):
                    if RECORD in (found.get("data") or {}):
                        yield Record.from_json(found["data"][RECORD])
            # A watch may end as soon as it began, again and again; the next one begins with the record as it is.
            self._clock.sleep(Times().poll_s)


def renamed(release: Release, name: str | None) -> Release:
    """Return a release under another name, where there is one."""
    return replace(release, name=name) if name else release


def address(names: Names, arm: Arm) -> str:
    """Address of an arm's Service inside the cluster."""
    return f"http://{names.arm(arm)}.{names.namespace}.svc"
