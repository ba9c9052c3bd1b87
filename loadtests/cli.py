"""``pilotage loadtest``: put load on a ranking service and report how it did.

Exit codes: 0 done, 1 more requests failed than the profile allows, 2 wrong use, 3 the test could not be
carried out (service not reachable, generator died), 4 the generator fell behind its schedule, so that nothing can be concluded,
130 interrupted; what was measured until then is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from loadtests.generator import Order
    from loadtests.report import Report

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)

EXIT_FAILED, EXIT_WRONG_USE, EXIT_INFRASTRUCTURE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

OUTPUTS = ("report.json", "report.html", "samples.npz")
"""What a run leaves in its folder, beside ``locust.log``; named again here so that ``--help`` imports no numpy."""


@app.command(name="loadtest")
def loadtest(
    *,
    host: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:3000",
    profile: Annotated[str, typer.Option(help="Name of a load profile (smoke, latency) or path of a .toml file.")] = "smoke",
    arrivals: Annotated[
        str | None,
        typer.Option(help="When requests are sent: closed:USERS, poisson:RATE, constant:RATE, replay:FILE, or JSON; default closed."),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(help="Requests under way: in a closed loop always, in an open one at most; replaces the profile's."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Requests to send, instead of seconds of load.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the schedule, and of what goes to which arm.")] = 0,
    arm: Annotated[
        list[str] | None, typer.Option(help="NAME=header:VALUE or NAME=http://host:port, repeated: arms to share the requests among.")
    ] = None,
    stream: Annotated[Path | None, typer.Option(help="Folder for samples about once a second while the load runs.")] = None,
    processes: Annotated[int, typer.Option(min=0, max=64, help="Generator processes, each with its share; 0 is one for everything.")] = 0,
    duration_s: Annotated[int | None, typer.Option("--duration-s", help="Seconds of load; replaces the profile's.")] = None,
    candidates: Annotated[str | None, typer.Option(help="Request sizes, SIZE or SIZE:WEIGHT,...; replaces the profile's.")] = None,
    payload_seed: Annotated[int | None, typer.Option(help="Seed of made-up requests; replaces the profile's.")] = None,
    requests_file: Annotated[
        Path | None, typer.Option(help="Recorded requests to send instead of made-up ones, one JSON body a line.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.html, samples.npz and locust.log.")] = Path("reports/loadtest"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Load a ranking service and write a JSON and an HTML report.

    A closed loop flatters a service that stalls: while it stalls, nobody asks (coordinated omission). Give --arrivals for an open one.
    """
    from loadtests.arms import parse_arms
    from loadtests.arrivals import parse_arrivals
    from loadtests.generator import Order
    from loadtests.load_profile import load_profile
    from loadtests.sources.service import check_host, fetch_model
    from serving.contract.errors import PilotageError

    try:
        chosen = load_profile(profile, users=users, duration_s=duration_s, candidates=candidates, payload_seed=payload_seed)
        parse_arms(arm or [])
        order = Order(
            host=check_host(host),
            profile=chosen,
            requests_file=requests_file,
            out=out,
            arrivals=None if arrivals is None else parse_arrivals(arrivals),
            users=users,
            samples=samples,
            seed=seed,
            arms=tuple(arm or []),
            stream=stream,
            processes=processes,
        )
        model = fetch_model(order.host)
        if requests_file is not None:
            from loadtests.sources.recorded import read_recorded

            read_recorded(requests_file, max_candidates=model.max_candidates)
        report, is_cut_short = _carry_out(order)
    except (PilotageError, OSError) as error:
        _fail(error)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    from loadtests.lag import assess
    from loadtests.samples import read_samples
    from loadtests.summary import print_summary

    passed = report.error_pct <= chosen.max_error_pct
    print_summary(report, out, max_error_pct=chosen.max_error_pct, passed=passed)
    generator = assess(read_samples(out / OUTPUTS[2]))
    for reason in generator.reasons:
        typer.echo(f"INVALID: {reason}", err=True)
    if is_cut_short:
        typer.echo("interrupted: the load was stopped, this is what was measured until then", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not generator.valid:
        raise typer.Exit(EXIT_INCONCLUSIVE)
    if not passed:
        raise typer.Exit(EXIT_FAILED)


def _carry_out(order: Order) -> tuple[Report, bool]:
    """Run the generator under a progress bar and read what it wrote; and whether somebody interrupted it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from loadtests.generator import run_generator
    from loadtests.report import read_report

    files = [order.out / name for name in OUTPUTS]
    for stale in files:
        # A report of an earlier run must not be taken for this one's, should the generator die.
        stale.unlink(missing_ok=True)
    seconds = order.seconds
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("load", total=seconds)

        def show(elapsed_s: float) -> None:
            over = seconds is not None and elapsed_s >= seconds
            progress.update(bar, completed=elapsed_s, description="last answers, report" if over else None)

        try:
            run_generator(order, show)
        except KeyboardInterrupt:
            if not files[0].exists():
                typer.echo("interrupted before anything was measured; the load was stopped", err=True)
                raise typer.Exit(EXIT_INTERRUPTED) from None
            return read_report(files[0]), True
    return read_report(files[0]), False


def _fail(error: Exception) -> NoReturn:
    """Say what went wrong on stderr and leave with the code that the error's kind has."""
    from loadtests.errors import LoadTestError

    typer.echo(f"pilotage loadtest: {error}", err=True)
    raise typer.Exit(EXIT_INFRASTRUCTURE if isinstance(error, LoadTestError | OSError) else EXIT_WRONG_USE)
