"""``pilotage serve``."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

SERVICE = "serving.services.ranking:RankingService"


@app.command()
def serve(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE…", help="Bundle folders, or bentoml:NAME[:VERSION] from BentoML's model store.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
) -> None:
    """Serve bundles with BentoML, until interrupted.

    The same as `PILOTAGE_BUNDLE=… bentoml serve serving.services.ranking:RankingService`, with the bundles checked first.
    """
    from serving.contract.bundle import open_bundle
    from serving.contract.errors import SettingsError
    from serving.services.settings import load_settings
    from serving.services.store import locate

    os.environ["PILOTAGE_BUNDLE"] = ",".join(
        bundle if ":" in bundle else os.path.abspath(bundle) for bundle in bundles
    )  # before they are checked together
    load_settings()
    manifests = [open_bundle(locate(bundle)).manifest for bundle in bundles]
    names = [manifest.name for manifest in manifests]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"{names.count(twice)} of the bundles are called {twice!r}; requests find models by name, so serve them apart")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # Python adds the address
        raise SettingsError(f"--host {host} --port {port}: cannot be listened on: {why}; choose another with --port") from error
    named = ", ".join(f"{manifest.name} {manifest.version}" for manifest in manifests)
    typer.echo(f"serving {named} on http://{host}:{port}", err=True)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # a service should not call home unless it is asked to
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", host, "--port", str(port)]
    os.execv(sys.executable, command)  # noqa: S606 - BentoML takes this process over, and with it its signals
