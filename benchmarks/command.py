"""What the command of every benchmark ends with: measure, show progress, print, say by the exit code whether there is anything to print."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from benchmarks.record import Record

Tell = Callable[[str, float], None]


def report(measure: Callable[[Tell], Record], title: str, *, as_json: bool) -> int:
    """Measure and print; 0 whether or not the aims are met, 3 when nothing could be measured.

    Parameters
    ----------
    measure
        Is handed what to tell of its progress, and the share of the whole that is done.
    title
        Over the tables.
    as_json
        Print one JSON object on stdout instead of tables.
    """
    from rich.console import Console

    from optimize.console import progress_bar
    from serving.contract.errors import PilotageError

    try:
        with progress_bar() as tell:
            record = measure(tell)
            tell("done", 1.0)
    except (PilotageError, OSError, subprocess.TimeoutExpired) as error:
        Console(stderr=True).print(f"nothing could be measured: {error}", soft_wrap=True, markup=False)
        return 3
    if as_json:
        print(record.as_json())
    else:
        record.print_tables(title, Console())
    return 0
