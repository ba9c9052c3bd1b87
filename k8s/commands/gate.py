"""``pilotage rollout gate``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k8s.commands.endings import EXIT_INTERRUPTED, fail, wrong

if TYPE_CHECKING:
    from k8s.gate import Gate
    from k8s.gate_server import GateServer

PORT, IDLE_S = 8089, 300.0


def gate(
    *,
    canary: Annotated[str, typer.Option(help="Address of the canary, http://host:port.")],
    baseline: Annotated[str, typer.Option(help="Address of what it is compared with.")],
    plan: Annotated[str, typer.Option(help="Plan whose warm-up and first step are judged: a name, or path of a .toml file.")] = "gate",
    listen: Annotated[str, typer.Option(help="Address to answer at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to answer at; 0: a free one.", min=0, max=65535)] = PORT,
    idle_s: Annotated[
        float, typer.Option(help="Seconds without a question after which the load ends and a verdict is old.", min=1)
    ] = IDLE_S,
) -> None:
    """Answer Argo Rollouts (`web` metric at /verdict) and Flagger (webhook at /flagger) with the judge's verdict, until ended."""
    import tempfile

    from k8s.gate import Gate, missing
    from k8s.local.processes import Processes
    from k8s.local.traffic import LocalTraffic, LocustLoad
    from k8s.rollout.plan import load_plan
    from serving.contract.errors import PilotageError

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        asked = load_plan(plan)
        if asked.synthetic is None or asked.live is not None or asked.answers is not None:
            raise wrong(f"plan {plan} does not judge synthetic requests alone, which is what a gate does")
        for address in (canary, baseline):
            if not address.startswith(("http://", "https://")):
                raise wrong(f"{address} is no address: give http://host:port")
        addresses = {"canary": canary, asked.beside: baseline}
        with tempfile.TemporaryDirectory(prefix="pilotage-gate-") as folder:
            generator = LocustLoad(baseline, asked, addresses=addresses, profile=asked.synthetic.profile)
            load = LocalTraffic(Processes(Path(folder), end_with_us=True), generator)
            judged = Gate(asked, {"synthetic": load}, idle_s=idle_s, absent=lambda: missing(addresses), tell=_tell)
            with _serving(judged, listen, port) as server:
                _tell(f"answering at http://{f'[{listen}]' if ':' in listen else listen}:{server.server_port}")
                answering = threading.Thread(target=server.serve_forever, daemon=True)
                answering.start()
                try:
                    # The load generator ends with the thread that began it: this one lives as long as the command.
                    judged.run(stop)
                finally:
                    server.shutdown()
                    answering.join()
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except PilotageError as error:
        fail(error)


def _serving(judged: Gate, listen: str, port: int) -> GateServer:
    from k8s.gate_server import GateServer

    try:
        return GateServer(judged, listen, port)
    except OSError as error:
        raise wrong(f"nothing can be answered at {listen} port {port}: {error}") from error


def _tell(line: str) -> None:
    typer.echo(line, err=True)
