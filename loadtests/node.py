"""``pilotage load-node``: what each pod of a distributed load test runs; it becomes Locust, as master, worker or alone.

Which of them is told by ``JOB_COMPLETION_INDEX``, which Kubernetes sets in the pods of an Indexed Job: 0 is the master, or alone where one
process does everything.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadtests.generator import LOCUSTFILE

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"

UNPACKED = "requests.jsonl"

MAX_UNPACKED_BYTES = 256 * 2**20
"""Recorded requests compress to a tenth or less; a ConfigMap holds 1 MiB."""


@app.command(name="load-node", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def node(
    context: typer.Context,
    *,
    workers: Annotated[int, typer.Option(min=1, help="Processes that send; 1: one pod does everything.")] = 1,
    master: Annotated[str, typer.Option(help="HOST:PORT where workers find the master.")] = "",
    requests: Annotated[Path | None, typer.Option(help="Recorded requests, one a line, gzip.")] = None,
    requests_sha256: Annotated[str, typer.Option(help="Of that file; another one is refused.")] = "",
    folder: Annotated[Path, typer.Option(help="For what is unpacked.")] = Path("/tmp"),  # noqa: S108 - a volume of the pod's own
) -> None:
    """Become a Locust process of a distributed load test; what follows are options of Locust."""
    from serving.contract.errors import SettingsError

    try:
        recorded = [] if requests is None else [f"--requests-file={unpack(requests, requests_sha256, folder)}"]
        command = command_of(int(os.environ.get(INDEX_VARIABLE, "0")), workers, master, [*context.args, *recorded])
    except SettingsError as error:
        typer.echo(f"pilotage load-node: {error}", err=True)
        raise typer.Exit(2) from error
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - no shell


def command_of(index: int, workers: int, master: str, options: Sequence[str]) -> list[str]:
    """Return Locust's command line for a pod.

    Parameters
    ----------
    index
        Of the pod; there are `workers` + 1 where there is a master.
    options
        The same for all: a worker draws the same requests as the master.

    Raises
    ------
    SettingsError
        A worker is not told where the master is.
    """
    from serving.contract.errors import SettingsError

    locust = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", *options]
    if workers == 1:
        return locust
    host, _, port = master.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"--master is {master!r}: with several workers it must be HOST:PORT")
    if index == 0:
        return [*locust, "--master", f"--master-bind-port={port}", f"--expect-workers={workers}"]
    return [*locust, "--worker", f"--master-host={host}", f"--master-port={port}"]


def unpack(packed: Path, sha256: str, folder: Path) -> Path:
    """Unpack recorded requests.

    Raises
    ------
    SettingsError
        They are not there, damaged, or not those that were meant.
    """
    from serving.contract.errors import SettingsError

    target = folder / UNPACKED
    try:
        content = packed.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if sha256 and found != sha256:
            raise SettingsError(f"{packed} has the checksum {found}, not {sha256}: another rollout wrote it meanwhile")
        with gzip.open(packed) as file:
            text = file.read(MAX_UNPACKED_BYTES + 1)
        if len(text) > MAX_UNPACKED_BYTES:
            raise SettingsError(f"{packed} holds more than {MAX_UNPACKED_BYTES // 2**20} MiB")
        target.write_bytes(text)
    except (OSError, EOFError) as error:
        raise SettingsError(f"recorded requests {packed} cannot be unpacked: {error}") from error
    return target
