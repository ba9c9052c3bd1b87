"""``pilotage loadtest``: put load on a ranking service and report how it did.

Exit codes: 0 done, 1 more requests failed than the profile allows, 2 wrong use, 3 the test could not be
carried out (service not reachable, generator died), 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from loadtests.generator import Order
    from loadtests.report import Report

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)

EXIT_FAILED, EXIT_WRONG_USE, EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED = 1, 2, 3, 130

OUTPUTS = ("report.json", "report.html", "samples.npz")
"""What a run leaves in its folder, beside ``locust.log``; named again here so that ``--help`` imports no numpy."""


@app.command(name="loadtest")
def loadtest(
    *,
    host: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:3000",
    profile: Annotated[str, typer.Option(help="Name of a load profile (smoke, latency) or path of a .toml file.")] = "smoke",
    users: Annotated[int | None, typer.Option(help="Requests under way at a time; replaces the profile's.")] = None,
    duration_s: Annotated[int | None, typer.Option("--duration-s", help="Seconds of load; replaces the profile's.")] = None,
    candidates: Annotated[str | None, typer.Option(help="Request sizes, SIZE or SIZE:WEIGHT,...; replaces the profile's.")] = None,
    payload_seed: Annotated[int | None, typer.Option(help="Seed of made-up requests; replaces the profile's.")] = None,
    requests_file: Annotated[
        Path | None, typer.Option(help="Recorded requests to send instead of made-up ones, one JSON body a line.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.html, samples.npz and locust.log.")] = Path("reports/loadtest"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Load a ranking service in a closed loop and write a JSON and an HTML report.

    A closed loop flatters a service that stalls: while it stalls, nobody asks (coordinated omission).
    """
    from loadtests.generator import Order
    from loadtests.load_profile import load_profile
    from loadtests.sources.service import check_host, fetch_model
    from serving.contract.errors import PilotageError

    try:
        chosen = load_profile(profile, users=users, duration_s=duration_s, candidates=candidates, payload_seed=payload_seed)
        order = Order(host=check_host(host), profile=chosen, requests_file=requests_file, out=out)
        model = fetch_model(order.host)
        if requests_file is not None:
            from loadtests.sources.recorded import read_recorded

            read_recorded(requests_file, max_candidates=model.max_candidates)
        report = _carry_out(order)
    except KeyboardInterrupt:
        typer.echo("interrupted; the load was stopped", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (PilotageError, OSError) as error:
        _fail(error)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    from loadtests.summary import print_summary

    passed = report.error_pct <= chosen.max_error_pct
    print_summary(report, out, max_error_pct=chosen.max_error_pct, passed=passed)
    if not passed:
        raise typer.Exit(EXIT_FAILED)


def _carry_out(order: Order) -> Report:
    """Run the generator under a progress bar and read what it wrote."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from loadtests.generator import run_generator
    from loadtests.report import read_report

    files = [order.out / name for name in OUTPUTS]
    for stale in files:
        # A report of an earlier run must not be taken for this one's, should the generator die.
        stale.unlink(missing_ok=True)
    users, seconds = order.profile.users, order.profile.duration_s
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{users} user{'s' if users > 1 else ''}, {seconds} s", total=seconds)

        def show(elapsed_s: float) -> None:
            over = elapsed_s >= seconds
            progress.update(bar, completed=min(elapsed_s, seconds), description="last answers, report" if over else None)

        run_generator(order, show)
    return read_report(files[0])


def _fail(error: Exception) -> NoReturn:
    """Say what went wrong on stderr and leave with the code that the error's kind has."""
    from loadtests.errors import LoadTestError

    typer.echo(f"pilotage loadtest: {error}", err=True)
    raise typer.Exit(EXIT_INFRASTRUCTURE if isinstance(error, LoadTestError | OSError) else EXIT_WRONG_USE)
