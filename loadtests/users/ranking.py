"""A user that asks for rankings.

Run it as ::

    locust -f loadtests/users/ranking.py --host http://127.0.0.1:3000

with Locust's web page, or ``--headless -u 2 -t 20s --report-dir reports/loadtest`` to write ``report.json``,
``report.html`` and ``samples.npz`` when it quits. ``pilotage loadtest`` runs the same file.

The loop is closed and has no wait: a user sends its next request when it has the answer to the last one.
The number of users is then exactly the number of requests under way, the one load that a machine of
unknown speed can be put under without choosing a rate first. The price is coordinated omission: while the
service stalls, nobody sends, and the requests that would have suffered are never made. A closed loop
flatters a service that stalls; the report says so.
"""

from __future__ import annotations

import itertools
import logging
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import locust
from locust import FastHttpUser, constant, events, task
from locust.exception import StopTest
from locust.runners import LocalRunner

from loadtests.errors import LoadTestError, NoSamples
from loadtests.recorder import Recorder
from loadtests.report import REPORT_NAME, Run, build_report, write_report
from loadtests.samples import SAMPLES_NAME, write_samples
from loadtests.sources.answers import failure_kind
from loadtests.sources.payloads import Body, generate
from loadtests.sources.pool import FULL_CHECK_EVERY
from loadtests.sources.rank_json import RANK_PATH
from loadtests.sources.recorded import read_recorded
from loadtests.sources.service import ServedModel, check_host, fetch_model
from loadtests.sources.sizes import DEFAULT_SIZES, parse_sizes
from serving.contract.errors import PilotageError

logger = logging.getLogger("pilotage.loadtest")

REQUEST_NAME = "POST /v1/rank"

TIMEOUT_S = 10.0
"""No answer after this is a failure. Whoever waits for a page with a ranking has left by then, and a test of some seconds has to end."""

STOP_TIMEOUT_S = TIMEOUT_S + 1
"""Requests under way at the end are waited for: cutting them off would drop the slowest of all."""

BACKOFF_S = 0.1
"""Wait after a request that got no answer at all: refused connections come back at once, and would be counted by the ten thousand."""

EXIT_WRONG_USE, EXIT_INFRASTRUCTURE = 2, 3

HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


Load = tuple[ServedModel, tuple[Body, ...]]


class LoadRun:
    """One test, from its start to its report."""

    def __init__(self, host: str, model: ServedModel, bodies: tuple[Body, ...], options: Any) -> None:
        self.host, self.model, self.options = host, model, options
        self.body_count = len(bodies)
        self.next_body: Iterator[Body] = itertools.cycle(bodies)
        self.recorder = Recorder()
        self.started_at = datetime.now(UTC)
        self.began_s = time.perf_counter()
        self.users = 0

    def write(self, folder: Path) -> None:
        """Write samples, then the JSON, then the page, so that a page that cannot be drawn costs no figures."""
        samples = self.recorder.samples()
        run = Run(
            host=self.host,
            model_name=self.model.name,
            model_version=self.model.version,
            users=max(self.users, 1),
            started_at=self.started_at,
            payload="recorded" if self.options.requests_file else "generated",
            payload_seed=None if self.options.requests_file else self.options.payload_seed,
            bodies=self.body_count,
            versions={"python": platform.python_version(), "locust": locust.__version__},
        )
        report = build_report(run, samples)
        write_samples(samples, folder / SAMPLES_NAME)
        write_report(report, folder / REPORT_NAME)
        # matplotlib takes a second to import: not while the load runs.
        from loadtests.page import PAGE_NAME, write_page

        write_page(report, samples, folder / PAGE_NAME)
        logger.info("report written to %s", folder)


class RankingUser(FastHttpUser):
    """Asks for rankings, one after the other."""

    wait_time = constant(0)
    network_timeout = TIMEOUT_S
    connection_timeout = TIMEOUT_S
    run_now: LoadRun | None = None
    """The test under way; set when it starts, the same for all users."""
    prepared: Load | None = None
    """What a test without the web page will send, made before Locust's clock starts."""

    @task
    def rank(self) -> None:
        """Send the next body of the pool and look at the answer."""
        run = type(self).run_now
        if run is None:
            raise StopTest("no test has been started, so there is no model to make requests for")
        body = next(run.next_body)
        in_full = run.recorder.sent % FULL_CHECK_EVERY == 0
        run.recorder.sent += 1
        # The sample is taken in `record_sample`, from the event that Locust's own statistics are made of.
        payload: Any = body.data  # bytes are sent as they are; Locust's annotation only knows text
        context = {"candidates": body.candidates, "started_s": time.perf_counter() - run.began_s}
        with self.client.post(RANK_PATH, data=payload, headers=HEADERS, name=REQUEST_NAME, context=context, catch_response=True) as answer:
            broken = answer.request_meta["exception"]
            # Locust's stand-in for an answer that never came has no status that could be asked for.
            status = answer.status_code if vars(answer).get("_response") is not None else 0
            kind: str | None
            if status == 0:
                kind = f"no answer: {_cause(broken)}"
            elif status == 200 and broken is not None:
                kind = f"answer cut short: {_cause(broken)}"
            else:
                kind = failure_kind(status, answer.content or b"", body, in_full=in_full)
            if kind is None:
                answer.success()
            else:
                answer.failure(kind)
        if status == 0:
            time.sleep(BACKOFF_S)


def _cause(error: Exception | None) -> str:
    """Name what went wrong; the client wraps it ("retries exceeded") though nothing is retried here."""
    return type(getattr(error, "original", None) or error).__name__


def add_options(parser: Any) -> None:
    """Add our options to Locust's command line."""
    group = parser.add_argument_group("Ranking requests")
    group.add_argument(
        "--requests-file",
        default="",
        env_var="PILOTAGE_LOADTEST_REQUESTS_FILE",
        help="send these recorded requests, one JSON body a line, instead of made-up ones",
    )
    group.add_argument(
        "--candidates",
        default=DEFAULT_SIZES,
        env_var="PILOTAGE_LOADTEST_CANDIDATES",
        help="candidates of made-up requests, SIZE or SIZE:WEIGHT,SIZE:WEIGHT,... (default %(default)s)",
    )
    group.add_argument(
        "--payload-seed",
        type=int,
        default=0,
        env_var="PILOTAGE_LOADTEST_PAYLOAD_SEED",
        help="seed of made-up requests: same seed, same bytes (default %(default)s)",
    )
    group.add_argument(
        "--report-dir",
        default="",
        env_var="PILOTAGE_LOADTEST_REPORT_DIR",
        help="write report.json, report.html and samples.npz here when Locust quits (default: no files)",
    )


def prepare(environment: Any, **_: Any) -> None:
    """Refuse what cannot work before anything is sent."""
    options = environment.parsed_options
    if options.report_dir and not isinstance(environment.runner, LocalRunner):
        logger.error("--report-dir needs the samples of all users in one process: leave it out, or --master, --worker and --processes")
        sys.exit(EXIT_WRONG_USE)
    try:
        parse_sizes(options.candidates)
        if options.headless and isinstance(environment.runner, LocalRunner):
            RankingUser.prepared = make_load(environment.host, options)
            # gevent reckons Locust's run time from when it last looked at the clock: let it look again.
            time.sleep(0.01)
    except PilotageError as error:
        logger.error("%s", error)
        sys.exit(_exit_code(error))
    if not environment.stop_timeout:
        environment.stop_timeout = STOP_TIMEOUT_S


def make_load(host: str | None, options: Any) -> Load:
    """Ask the service for its model and make the requests for it.

    Raises
    ------
    PilotageError
        When the service serves no ranking model, or the recorded requests are of no use.
    """
    model = fetch_model(host or "")
    if options.requests_file:
        return model, read_recorded(Path(options.requests_file), max_candidates=model.max_candidates)
    sizes = parse_sizes(options.candidates)
    return model, generate(model.features, sizes=sizes, max_candidates=model.max_candidates, seed=options.payload_seed)


def _exit_code(error: PilotageError) -> int:
    return EXIT_INFRASTRUCTURE if isinstance(error, LoadTestError) else EXIT_WRONG_USE


def start(environment: Any, **_: Any) -> None:
    """Begin a test with an empty record."""
    RankingUser.run_now = None
    options, host = environment.parsed_options, environment.host or RankingUser.host
    try:
        model, bodies = RankingUser.prepared or make_load(host, options)
    except PilotageError as error:
        environment.process_exit_code = _exit_code(error)
        raise StopTest(str(error)) from error
    # A second test, started on the web page, asks again: the service may have another model by then.
    RankingUser.prepared = None
    environment.process_exit_code = None
    logger.info("ranking model %s %s, %d request bodies", model.name, model.version, len(bodies))
    RankingUser.run_now = LoadRun(check_host(host or ""), model, bodies, options)


def note_users(user_count: int, **_: Any) -> None:
    """Keep the largest number of users, which the report states."""
    run = RankingUser.run_now
    if run is not None:
        run.users = max(run.users, user_count)


def record_sample(response_time: float, response_length: int, exception: Exception | None, context: Any, response: Any, **_: Any) -> None:
    """Append one sample; runs for every request."""
    run = RankingUser.run_now
    if run is not None and "started_s" in context:
        kind = None if exception is None else str(exception)
        started_s = context["started_s"]
        status = response.status_code if vars(response).get("_response") is not None else 0
        run.recorder.add(started_s, started_s, response_time, kind, status, "rank", 0, response_length, context["candidates"])


def write_files(environment: Any, **_: Any) -> None:
    """Write the report of the last test, where one was asked for."""
    run, options = RankingUser.run_now, environment.parsed_options
    if run is None or not options.report_dir:
        return
    # Ended by a signal, the load still runs: stop it, so that drawing does not slow the last answers down.
    environment.runner.stop()
    if environment.runner.exceptions:
        logger.error("the user itself failed, see above: this run measured nothing that can be trusted")
        environment.process_exit_code = EXIT_INFRASTRUCTURE
        return
    try:
        run.write(Path(options.report_dir))
    except NoSamples as error:
        logger.error("%s", error)
        environment.process_exit_code = EXIT_INFRASTRUCTURE
    except Exception:
        logger.exception("the report could not be written to %s", options.report_dir)
        environment.process_exit_code = EXIT_INFRASTRUCTURE


hooks: Any = events
hooks.init_command_line_parser.add_listener(add_options)
hooks.init.add_listener(prepare)
hooks.test_start.add_listener(start)
hooks.spawning_complete.add_listener(note_users)
hooks.request.add_listener(record_sample)
hooks.quitting.add_listener(write_files)
