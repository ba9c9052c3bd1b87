"""``pilotage serve``."""

from __future__ import annotations

import os
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
    from serving.services.settings import load_settings
    from serving.services.store import locate

    load_settings()
    manifests = [open_bundle(locate(bundle)).manifest for bundle in bundles]
    named = ", ".join(f"{manifest.name} {manifest.version}" for manifest in manifests)
    typer.echo(f"serving {named} on http://{host}:{port}", err=True)
    os.environ["PILOTAGE_BUNDLE"] = ",".join(bundle if ":" in bundle else os.path.abspath(bundle) for bundle in bundles)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # a service should not call home unless it is asked to
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", host, "--port", str(port)]
    os.execv(sys.executable, command)  # noqa: S606 - BentoML takes this process over, and with it its signals
