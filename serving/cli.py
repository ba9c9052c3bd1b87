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
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or bentoml:NAME[:VERSION] from BentoML's model store.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
) -> None:
    """Serve a bundle with BentoML, until interrupted.

    The same as `PILOTAGE_BUNDLE=… bentoml serve serving.services.ranking:RankingService`, with the bundle checked first.
    """
    from serving.contract.bundle import open_bundle
    from serving.services.settings import load_settings
    from serving.services.store import locate

    load_settings()
    opened = open_bundle(locate(bundle))
    typer.echo(f"serving {opened.manifest.name} {opened.manifest.version} on http://{host}:{port}", err=True)
    os.environ["PILOTAGE_BUNDLE"] = bundle if ":" in bundle else os.path.abspath(bundle)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # a service should not call home unless it is asked to
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", host, "--port", str(port)]
    os.execv(sys.executable, command)  # noqa: S606 - BentoML takes this process over, and with it its signals
