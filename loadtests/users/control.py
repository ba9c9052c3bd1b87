"""A test's course in one Locust process, from Locust's events: alone, as master or as worker."""

from __future__ import annotations

import logging
import ssl
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner

from loadtests.errors import LoadTestError, NoSamples
from loadtests.server_side import Scrape
from loadtests.users.collector import Collector
from loadtests.users.load_run import LAST_ANSWERS_S, LoadRun
from loadtests.users.options import Plan, plan_of, stream_of, users_for
from loadtests.users.reporting import look_at_service, write_reports
from loadtests.users.source import Load, make_load
from loadtests.users.workers import Master, Worker
from serving.contract.errors import PilotageError

logger = logging.getLogger("pilotage.loadtest")

EXIT_WRONG_USE, EXIT_INFRASTRUCTURE = 2, 3

LEAD_S = 0.05
"""From the last user's start to that of the schedule, where nobody else has to be told."""

STOP_TIMEOUT_S = LAST_ANSWERS_S + 1
"""Locust's own patience with users that work: longer than ours, so that ours decides."""

PAGE_MARGIN_S = 0.3
"""A schedule ends so long before the clock of Locust's web page, which began before the users were there."""


class Control:
    """One Locust process; tests follow one another on the web page."""

    def __init__(self) -> None:
        self.run: LoadRun | None = None
        """The test under way, where this process sends."""
        self.tls_context: ssl.SSLContext | None = None
        """Of the test under way, for addresses with https."""
        self._load: Load | None = None
        self._prepared: Load | None = None
        self._plan: Plan | None = None
        self._before: Scrape | None = None
        self._collector: Collector | None = None
        self._master: Master | None = None
        self._worker: Worker | None = None
        self._environment: Any = None
        self._users = 0
        self._started_s = 0.0
        self._is_begun = self._is_stopping = self._is_written = False

    def prepare(self, environment: Any, **_: Any) -> None:
        """Refuse what cannot work before anything is sent, and listen to what follows."""
        self._environment = environment
        runner, options = environment.runner, environment.parsed_options
        environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT_S
        listen = environment.events
        listen.test_start.add_listener(self._start)
        if isinstance(runner, WorkerRunner):
            self._worker = Worker(runner, lambda: self.run)
            listen.quitting.add_listener(self._quit_worker)
            return
        if isinstance(runner, MasterRunner):
            self._master = Master(runner, self._new_collector)
        listen.spawning_complete.add_listener(self._begin)
        listen.test_stopping.add_listener(self._halt)
        listen.test_stop.add_listener(self._finish)
        listen.quitting.add_listener(self._quit)
        try:
            plan = plan_of(options)
            if options.num_users is None:
                options.num_users = plan.profile.users or users_for(plan.profile.arrivals)
            options.spawn_rate = options.spawn_rate or options.num_users
            if options.headless:
                # The schedule keeps the time: Locust's own clock would start before there are users, and cut its end off.
                options.duration_s, options.run_time = options.duration_s or options.run_time or 0.0, None
                plan = plan_of(options)
                plan.shares(1)
                self._prepared = make_load(environment.host, plan)
        except PilotageError as error:
            logger.error("%s", error)
            sys.exit(_exit_code(error))

    def _start(self, environment: Any, **_: Any) -> None:
        """Get ready for a test: its source, and an empty record."""
        self.run = self._collector = self._before = None
        self._is_begun = self._is_stopping = self._is_written = False
        self._users, self._started_s = 0, time.monotonic()
        options, host = environment.parsed_options, environment.host
        try:
            self._plan = plan_of(options)
            self._load = self._prepared or make_load(host, self._plan)
        except PilotageError as error:
            if self._worker is not None:
                logger.error("%s", error)
                self._worker.reason = str(error)
                return
            environment.process_exit_code = _exit_code(error)
            raise StopTest(str(error)) from error
        # A second test, started on the web page, asks again: the service may have another model by then.
        self._prepared = None
        environment.process_exit_code = None
        if self._master is None:
            logger.info("%s", self._load.source.told())
            # Locust's clients trust every certificate unless they are told whom to trust.
            self.tls_context = self._plan.profile.traffic.access.tls_context()
            self.run = LoadRun(self._load.host, self._load.source, self._plan.arms, self._plan.profile.seed, open_loop=self._plan.open_loop)

    def _begin(self, user_count: int, **_: Any) -> None:
        """Begin the schedule: all users are there."""
        self._users = max(self._users, user_count)
        if self._is_begun or self._plan is None:
            return
        self._is_begun = True
        if self._environment.parsed_options.report_dir and self._load is not None:
            self._before = look_at_service(self._load, self._plan)
        try:
            plan = self._within_page_clock(self._plan)
            if self._master is not None:
                senders = self._master.senders
                self._collector = self._master.begin(plan.shares(len(senders)), senders)
            else:
                assert self.run is not None
                (share,) = plan.shares(1)
                collector = self._collector = self._new_collector(1)
                self.run.begin(share, LEAD_S, lambda samples, last: collector.add(samples, last=last))
        except PilotageError as error:
            logger.error("%s", error)
            self._environment.process_exit_code = _exit_code(error)
            gevent.spawn(self._leave)
            return
        gevent.spawn(self._await_end, self._collector)

    def _within_page_clock(self, plan: Plan) -> Plan:
        run_time = self._environment.parsed_options.run_time
        if plan.duration_s is not None or not run_time:
            return plan
        return replace(plan, duration_s=max(run_time - (time.monotonic() - self._started_s) - PAGE_MARGIN_S, PAGE_MARGIN_S))

    def _new_collector(self, senders: int) -> Collector:
        return Collector(stream_of(self._environment.parsed_options), senders)

    def _await_end(self, collector: Collector) -> None:
        collector.done.wait()
        if collector is self._collector and not self._is_stopping:
            self._leave()

    def _leave(self) -> None:
        runner = self._environment.runner
        if self._environment.parsed_options.headless:
            runner.quit()
        else:
            runner.stop()

    def _halt(self, **_: Any) -> None:
        """Locust stops the test: send nothing more, and wait for the answers that are under way."""
        self._is_stopping = True
        if self._collector is None or self._collector.done.is_set():
            return
        if self._master is not None:
            self._master.halt()
        elif self.run is not None:
            self.run.halt()
        self._collector.done.wait(LAST_ANSWERS_S + 2)

    def _quit(self, environment: Any, **_: Any) -> None:
        """Locust ends, perhaps by a signal in the midst of a test: what was measured is written all the same."""
        self._halt()
        self._finish(environment)

    def _quit_worker(self, **_: Any) -> None:
        """Hand over what this worker has, should it be ended alone."""
        if self.run is not None and self.run.is_begun:
            self.run.halt()
            self.run.handed_over.wait(LAST_ANSWERS_S + 2)

    def _finish(self, environment: Any, **_: Any) -> None:
        """Write the reports of the test, where they were asked for."""
        options = environment.parsed_options
        if self._is_written or self._collector is None:
            return
        self._is_written = True
        if environment.runner.exceptions:
            logger.error("the user itself failed, see above: this run measured nothing that can be trusted")
            environment.process_exit_code = EXIT_INFRASTRUCTURE
            return
        if self._master is not None and self._master.failed:
            logger.error("a worker could not send: %s", self._master.failed)
            environment.process_exit_code = EXIT_INFRASTRUCTURE
            return
        if not options.report_dir:
            return
        assert self._load is not None
        assert self._plan is not None
        try:
            write_reports(Path(options.report_dir), self._load, self._plan, self._collector, self._before, users=max(self._users, 1))
        except NoSamples as error:
            logger.error("%s", error)
            environment.process_exit_code = EXIT_INFRASTRUCTURE
        except Exception:
            logger.exception("the report could not be written to %s", options.report_dir)
            environment.process_exit_code = EXIT_INFRASTRUCTURE


def _exit_code(error: PilotageError) -> int:
    return EXIT_INFRASTRUCTURE if isinstance(error, LoadTestError) else EXIT_WRONG_USE
