"""The files that a test leaves behind."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable
from pathlib import Path

import locust

from loadtests.arms import ARM_HEADER
from loadtests.report import REPORT_NAME, Run, Sent, build_report, write_report
from loadtests.samples import SAMPLES_NAME, write_samples
from loadtests.server_side import Scrape, between, scrape
from loadtests.users.collector import Collector
from loadtests.users.options import Plan
from loadtests.users.source import Load

logger = logging.getLogger("pilotage.loadtest")


def look_at_service(load: Load, plan: Plan) -> Scrape:
    """Read what the service has counted so far."""
    secure = load.host.startswith("https://")
    return scrape(load.host, plan.profile.traffic.access.tls_context() if secure else None)


def write_reports(folder: Path, load: Load, plan: Plan, collector: Collector, before: Scrape | None, *, users: int) -> None:
    """Write samples, then the JSON, then the page, so that a page that cannot be drawn costs no figures.

    Raises
    ------
    NoSamples
        Nothing was measured.
    """
    after = None if before is None else look_at_service(load, plan)
    samples = collector.samples()
    run = Run(
        host=load.host,
        model_name=_together(part.model.name for part in load.source.parts),
        model_version=_together(part.model.version for part in load.source.parts),
        profile=plan.profile.name,
        users=users,
        started_at=collector.started_at,
        arrivals=plan.profile.arrivals.model_dump(mode="json") if plan.open_loop else None,
        sent=_sent(load, plan),
        seed=plan.profile.seed,
        arms={arm.name: arm.host or f"{ARM_HEADER}: {arm.header}" for arm in plan.arms if arm.host or arm.header},
        versions={"python": platform.python_version(), "locust": locust.__version__},
    )
    report = build_report(run, samples, plan.profile.asked, between(before, after))
    write_samples(samples, folder / SAMPLES_NAME)
    write_report(report, folder / REPORT_NAME)
    # matplotlib takes a second to import: not while the load runs.
    from loadtests.page import PAGE_NAME, write_page

    write_page(report, samples, folder / PAGE_NAME)
    logger.info("report written to %s", folder)


def _sent(load: Load, plan: Plan) -> tuple[Sent, ...]:
    recorded = {entry.name for entry in plan.profile.traffic.requests if getattr(entry, "recorded", None) is not None}
    return tuple(
        Sent(
            endpoint=part.endpoint,
            model=f"{part.model.name} {part.model.version}",
            weight=part.weight,
            bodies=part.bodies,
            recorded=part.endpoint in recorded,
        )
        for part in load.source.parts
    )


def _together(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
