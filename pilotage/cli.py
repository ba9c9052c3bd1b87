"""The ``pilotage`` command: mounts the stages' own commands, each loaded only when it is called.

``pilotage --help`` imports neither torch nor BentoML nor Locust.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

# Command → module with its Typer app, and the line for the list of commands.
STAGES = {
    "train": ("optimize.cli.train", "Train a ranking model beside its baselines."),
    "scenes": ("optimize.cli.scenes", "Draw captioned scenes to try a CLIP on."),
    "optimize": ("optimize.cli.optimize", "Export, build variants, choose the fastest inside the accuracy budget."),
    "export": ("optimize.cli.export", "Export any torch module to ONNX, checked against torch."),
    "clip": ("optimize.cli.clip", "Make bundles of CLIP checkpoints, and faster ones of bundles."),
    "passes": ("optimize.cli.passes", "Apply single transformations to any ONNX model."),
    "bundle": ("optimize.cli.bundle", "Make, check and import bundles."),
    "serve": ("serving.cli", "Serve a bundle over HTTP."),
    "loadtest": ("loadtests.cli", "Load a running service and report latencies."),
    "judge": ("loadtests.judging", "Judge a canary by its samples and a baseline's: pass, fail or inconclusive."),
    "rollout": ("k8s.cli", "Take a release from 0 to 100 % in judged steps, or back."),
    "demo": ("pilotage.demo", "All of it in one go, on real clicks."),
}

# What no person types: the chart's pods do.
HIDDEN = {"load-node": ("loadtests.node", "Become a Locust process of a distributed load test.")}

INFRASTRUCTURE = 3


class _Lazy(TyperGroup):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(STAGES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what the list of commands needs: a name and a line, nothing imported."""
        found = (STAGES | HIDDEN).get(cmd_name)
        if found is None:
            return None
        line = typer.Typer(add_completion=False)
        line.command(cmd_name, help=found[1])(lambda: None)
        return get_command(line)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the stage that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        found = (STAGES | HIDDEN).get(str(name))
        if found is not None:
            command = get_command(importlib.import_module(found[0]).app)
            command.name = name
        return name, command, rest


app = typer.Typer(cls=_Lazy, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def pilotage() -> None:
    """From a trained PyTorch model to a service that answers in milliseconds, measured at every step."""


def main() -> None:
    """Run the command; a mistake that a person can mend is one message and exit code 2 or 3."""
    try:
        app()
    except Exception as error:
        from serving.contract.errors import PilotageError

        if not isinstance(error, PilotageError | OSError):
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code if isinstance(error, PilotageError) else INFRASTRUCTURE)


if __name__ == "__main__":
    main()
