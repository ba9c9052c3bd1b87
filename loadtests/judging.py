"""``pilotage judge``: judge a canary by its samples, beside a baseline's or alone.

Exit codes: 0 pass, 1 fail, 2 wrong use, 4 inconclusive.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from loadtests.judge import Batch, Objective, Policy, Verdict
    from loadtests.samples import Samples

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)

CANARY, BESIDE = "canary", ("baseline", "stable")
"""Arms of one load test: the release, and what it is compared with, the first that is there."""

EXIT_FAILED, EXIT_WRONG_USE, EXIT_INCONCLUSIVE = 1, 2, 4
"""3 is for what could not be carried out (infrastructure), which says nothing about the canary; this is an answer."""


@app.command(name="judge")
def judge(
    canary: Annotated[Path, typer.Argument(help="samples.npz of the release; of both, where the test had the arms canary and baseline.")],
    baseline: Annotated[
        Path | None, typer.Argument(help="samples.npz of the version before, loaded at the same time, clocks started together.")
    ] = None,
    *,
    objectives: Annotated[
        Path | None, typer.Option(help="TOML file with objectives and policy; else what a canary is asked by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the verdict, such as verdict.json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON on stdout.")] = False,
) -> None:
    """Judge a canary: pass (exit code 0), fail (1) or inconclusive (4)."""
    from loadtests.judge import Judge, JudgeError
    from loadtests.objectives import held_against, unfit
    from loadtests.samples import read_samples
    from serving.contract.errors import SettingsError
    from serving.contract.files import write_bytes

    try:
        asked, policy = _objectives(objectives)
        runs = [read_samples(path) for path in (canary, baseline) if path is not None]
        judged = Judge(asked, policy)
        judged.add(_batch(runs, canary, compared=any(objective.two_arms for objective in asked)))
        verdict = held_against(judged.verdict(), [reason for run in runs for reason in unfit(run, policy)])
        if out is not None:
            write_bytes(out, verdict.to_json().encode())
    except (SettingsError, JudgeError, OSError) as error:
        typer.echo(f"pilotage judge: {error}", err=True)
        raise typer.Exit(EXIT_WRONG_USE) from error
    if as_json:
        typer.echo(verdict.to_json(), nl=False)
    _print(verdict)
    if verdict.status != "pass":
        raise typer.Exit(EXIT_FAILED if verdict.status == "fail" else EXIT_INCONCLUSIVE)


def _batch(runs: Sequence[Samples], path: Path, *, compared: bool) -> Batch:
    """Requests of the release, and of what it is compared with: from two files, or from the arms of one.

    Raises
    ------
    SettingsError
        There is nothing to compare with.
    """
    from loadtests.batches import arm_of, batch_of
    from loadtests.judge import Batch
    from serving.contract.errors import SettingsError

    if len(runs) == 2:
        return Batch(arm_of(runs[0]), arm_of(runs[1]))
    if not compared:
        return Batch(arm_of(runs[0].of_arm(CANARY) if CANARY in runs[0].arms else runs[0]))
    beside = next((name for name in BESIDE if name in runs[0].arms), None)
    if CANARY not in runs[0].arms or beside is None:
        raise SettingsError(
            f"objectives compare with a baseline, and the arms of {path} are {', '.join(runs[0].arms)}: name the baseline's samples, load "
            f"the arms {CANARY} and {BESIDE[0]}, or give --objectives with limits alone"
        )
    return batch_of(runs[0], CANARY, beside)


def _objectives(path: Path | None) -> tuple[tuple[Objective, ...], Policy]:
    """Read objectives and policy; what the file leaves out has its default.

    Raises
    ------
    SettingsError
        The file cannot be read, or names what there is not.
    """
    from loadtests.judge import CANARY_OBJECTIVES, JudgeError, Policy, objectives_of
    from serving.contract.errors import SettingsError

    if path is None:
        return CANARY_OBJECTIVES, Policy()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    try:
        asked, policy = objectives_of(document)
    except JudgeError as error:
        raise SettingsError(f"{path}: {error}") from error
    return asked or CANARY_OBJECTIVES, policy


def _print(verdict: Verdict) -> None:
    """Print the sentences for a person, on stderr."""
    from rich.console import Console

    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for finding in verdict.findings:
        console.print(f"  [{colour[finding.status]}]{finding.status:12}[/] {finding.objective}: ", end="")
        console.print(finding.sentence, markup=False)
    console.print(f"[bold {colour[verdict.status]}]{verdict.sentence}[/]")
    if not verdict.lag_measured:
        console.print("how late the generator sent requests was not measured; a late one measures itself", style="dim")
