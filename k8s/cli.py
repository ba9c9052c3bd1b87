"""``pilotage rollout``: start, steer and watch a rollout, on a cluster (``--name``) or on this machine (``--folder``).

The commands are functions in `k8s.commands`; what is heavy they import when they are called.
"""

from __future__ import annotations

import typer

from k8s.commands.gate import gate
from k8s.commands.show import explain, history, status
from k8s.commands.start import start
from k8s.commands.steer import abort, pause, promote, resume, stop

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def rollout() -> None:
    """Take a release from 0 to 100 % in judged steps, or back."""


for command in (start, status, history, explain, pause, resume, promote, abort, stop, gate):
    app.command()(command)
