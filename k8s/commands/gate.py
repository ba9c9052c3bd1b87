"""``pilotage rollout gate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k8s.commands.endings import EXIT_INTERRUPTED, fail, wrong

PORT = 8089


def gate(
    *,
    canary: Annotated[str, typer.Option(help="Address of the canary, http://host:port.")],
    baseline: Annotated[str, typer.Option(help="Address of what it is compared with.")],
    plan: Annotated[str, typer.Option(help="Plan whose first step is judged.")] = "shadow",
    listen: Annotated[str, typer.Option(help="Address to answer at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to answer at.")] = PORT,
) -> None:
    """Answer Argo Rollouts (`web` metric at /verdict) and Flagger (webhook at /flagger) with the judge's verdict, until ended."""
    import tempfile

    from k8s.gate import Gate, serve
    from k8s.installation import ServiceLoad
    from k8s.local.processes import Processes
    from k8s.local.traffic import LocalTraffic
    from k8s.rollout.plan import load_plan
    from serving.contract.errors import PilotageError

    try:
        asked = load_plan(plan)
        if asked.synthetic is None or asked.live is not None:
            raise wrong(f"plan {plan} does not judge synthetic requests alone, which is what a gate does")
        addresses = dict(zip(asked.arms, (canary, baseline), strict=True))
        with tempfile.TemporaryDirectory(prefix="pilotage-gate-") as folder:
            load = LocalTraffic(baseline, Processes(Path(folder), end_with_us=True), ServiceLoad(baseline, asked, addresses, None))
            judged = Gate(asked, {"synthetic": load})
            try:
                with serve(judged, listen, port) as server:
                    typer.echo(f"answering at http://{listen}:{server.server_port}", err=True)
                    server.serve_forever()
            finally:
                judged.close()
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except PilotageError as error:
        fail(error)
