"""What happens, as Kubernetes Events of the stable Deployment: `kubectl describe` shows them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from k8s.cluster.api import Api
from k8s.cluster.names import Names
from k8s.errors import RolloutError
from k8s.rollout.phases import Phase
from k8s.rollout.record import Entry, Record

TOLD = {
    "started": "RolloutStarted",
    "phase": "RolloutPhase",
    "weights": "RolloutWeights",
    "drift": "RolloutDrift",
    "asked": "RolloutAsked",
    "note": "RolloutNote",
}
"""Lines of the timeline that become Events, and their reasons; the rest is in the journal."""

MAX_MESSAGE = 1024
"""The API refuses longer ones."""


class EventNotice:
    """Writes Events. One that cannot be written stops nothing: the journal has the line too."""

    def __init__(self, api: Api, names: Names) -> None:
        self._api, self._names = api, names

    def __call__(self, record: Record, entry: Entry) -> None:
        """Tell one line."""
        if entry.what not in TOLD:
            return
        names = self._names
        when = datetime.fromtimestamp(entry.at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        about = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": names.namespace, "name": names.arm("stable")}
        bad = entry.what == "drift" or entry.phase in (Phase.ROLLING_BACK, Phase.REVERTING)
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{names.rollout}.", "namespace": names.namespace},
            "involvedObject": about,
            "reason": TOLD[entry.what],
            "message": f"{record.title}: {entry.detail}"[:MAX_MESSAGE],
            "type": "Warning" if bad else "Normal",
            "count": 1,
            "firstTimestamp": when,
            "lastTimestamp": when,
            "source": {"component": "pilotage-rollout"},
        }
        with suppress(RolloutError):
            self._api.create(names.events, event)
