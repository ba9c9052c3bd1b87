"""The files that a test leaves behind."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import Any

import locust

from loadtests.report import REPORT_NAME, Run, build_report, write_report
from loadtests.samples import SAMPLES_NAME, write_samples
from loadtests.users.collector import Collector
from loadtests.users.source import Load

logger = logging.getLogger("pilotage.loadtest")


def write_reports(folder: Path, load: Load, collector: Collector, options: Any, *, users: int) -> None:
    """Write samples, then the JSON, then the page, so that a page that cannot be drawn costs no figures.

    Raises
    ------
    NoSamples
        Nothing was measured.
    """
    samples = collector.samples()
    run = Run(
        host=load.host,
        model_name=load.model.name,
        model_version=load.model.version,
        users=users,
        started_at=collector.started_at,
        payload="recorded" if options.requests_file else "generated",
        payload_seed=None if options.requests_file else options.payload_seed,
        bodies=load.bodies,
        versions={"python": platform.python_version(), "locust": locust.__version__},
    )
    report = build_report(run, samples)
    write_samples(samples, folder / SAMPLES_NAME)
    write_report(report, folder / REPORT_NAME)
    # matplotlib takes a second to import: not while the load runs.
    from loadtests.page import PAGE_NAME, write_page

    write_page(report, samples, folder / PAGE_NAME)
    logger.info("report written to %s", folder)
