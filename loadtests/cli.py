"""``pilotage loadtest``: put load on a service and report how it did; search for its limit; compare two runs.

Exit codes: 0 done, or all objectives passed; 1 an objective failed, or more requests than the profile allows; 2 wrong use; 3 the test could
not be carried out (service not reachable, generator died); 4 inconclusive: too few requests, or a generator that fell behind its schedule;
130 interrupted, and what was measured until then is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from loadtests.comparing import compare

if TYPE_CHECKING:
    from loadtests.load_profile import LoadProfile

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)

EXIT_FAILED, EXIT_WRONG_USE, EXIT_INFRASTRUCTURE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

EXITS = {"fail": EXIT_FAILED, "inconclusive": EXIT_INCONCLUSIVE}
"""By the report's status; a run that passed, or of which nothing was asked, is done."""


@app.callback(invoke_without_command=True)
def loadtest(
    context: typer.Context,
    *,
    host: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:3000",
    profile: Annotated[
        str, typer.Option(help="Name of a load profile (smoke, latency, server, saturation, soak, spike, canary) or path of a .toml file.")
    ] = "smoke",
    arrivals: Annotated[
        str | None,
        typer.Option(
            help="When requests are sent: closed:USERS, poisson:RATE, constant:RATE, replay:FILE, or JSON; replaces the profile's."
        ),
    ] = None,
    traffic: Annotated[
        str | None,
        typer.Option(help="What is sent: a mix rank:70,classify:30 (or rank-arrow, infer), a .toml file with a table [traffic], or JSON."),
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="[ENDPOINT:]p99_ms=50,max_error_pct=0.5, repeated; replaces the profile's objectives.")
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(help="Requests under way: in a closed loop always, in an open one at most; replaces the profile's."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Requests to send; replaces the profile's end.")] = None,
    duration_s: Annotated[float | None, typer.Option("--duration-s", help="Seconds of load; replaces the profile's end.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of schedule, arms and bodies; replaces the profile's.")] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="NAME=header:VALUE or NAME=http://host:port, repeated: arms to share the requests among.")
    ] = None,
    stream: Annotated[Path | None, typer.Option(help="Folder for samples about once a second while the load runs.")] = None,
    processes: Annotated[int, typer.Option(min=0, max=64, help="Generator processes, each with its share; 0 is one for everything.")] = 0,
    candidates: Annotated[str | None, typer.Option(help="Request sizes, SIZE or SIZE:WEIGHT,...; replaces the profile's.")] = None,
    requests_file: Annotated[
        Path | None, typer.Option(help="Recorded ranking requests to send instead of made-up ones, one JSON body a line.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token.")] = None,
    ca_file: Annotated[Path | None, typer.Option(help="Certificates of the authorities to trust for https://.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.html, samples.npz and locust.log.")] = Path("reports/loadtest"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Load a service and write a JSON and an HTML report.

    A closed loop flatters a service that stalls: while it stalls, nobody asks (coordinated omission). Give --arrivals for an open one.
    """
    if context.invoked_subcommand is not None:
        return
    from loadtests.generator import Order
    from loadtests.load_profile import load_profile
    from loadtests.objectives import parse_objective
    from serving.contract.errors import PilotageError

    try:
        from loadtests.arms import parse_arms
        from loadtests.arrivals import parse_arrivals
        from loadtests.sources.access import check_host
        from loadtests.sources.traffic import parse_traffic

        chosen = load_profile(
            profile,
            arrivals=None if arrivals is None else parse_arrivals(arrivals),
            traffic=None if traffic is None else parse_traffic(traffic),
            objective=tuple(map(parse_objective, objective)) if objective else None,
            users=users,
            samples=samples,
            duration_s=duration_s,
            seed=seed,
            candidates=candidates,
            recorded=requests_file,
            token_file=token_file,
            ca_file=ca_file,
        )
        names = [each.name for each in parse_arms(arm or [])]
        _check_arms(chosen, names)
        order = Order(host=check_host(host), profile=chosen, out=out, arms=tuple(arm or []), stream=stream, processes=processes)
        if chosen.saturation is None:
            from loadtests.running import run_and_report

            status, is_cut_short = run_and_report(order, as_json=as_json)
        else:
            from loadtests.searching import search_and_report

            status, is_cut_short = search_and_report(order, chosen.saturation, as_json=as_json)
    except (PilotageError, OSError) as error:
        _fail(error)
    if is_cut_short:
        typer.echo("interrupted: the load was stopped, this is what was measured until then", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if status in EXITS:
        raise typer.Exit(EXITS[status])


app.command()(compare)


@app.command()
def schema() -> None:
    """Print the JSON schema of report.json."""
    import json

    from loadtests.report import Report

    typer.echo(json.dumps(Report.model_json_schema(mode="serialization"), indent=2))


def _check_arms(profile: LoadProfile, names: list[str]) -> None:
    """Check that the arms which are to be compared are there.

    Raises
    ------
    SettingsError
        One is not.
    """
    from serving.contract.errors import SettingsError

    for name in profile.compare or ():
        if name not in names:
            target = f"--arm {name}=header:{name}, or --arm {name}=http://host:port"
            raise SettingsError(f"profile {profile.name} compares the arm {name!r}, which was not given: add {target}")


def _fail(error: Exception) -> NoReturn:
    """Say what went wrong on stderr and leave with the code that the error's kind has."""
    from loadtests.errors import LoadTestError

    typer.echo(f"pilotage loadtest: {error}", err=True)
    raise typer.Exit(EXIT_INFRASTRUCTURE if isinstance(error, LoadTestError | OSError) else EXIT_WRONG_USE)
