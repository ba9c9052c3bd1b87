"""Weights as values of the chart: whoever applies the chart sets those of its HTTPRoute, and this waits until they are in force."""

from __future__ import annotations

from k8s.cluster.api import Api, Object
from k8s.cluster.applied import applied_values, require_applied
from k8s.cluster.names import Names
from k8s.cluster.values import Values, ValuesFile
from k8s.errors import Refused, Unavailable
from k8s.rollout.arms import Weights
from k8s.rollout.plan_tables import Copied
from k8s.routing.features import check_mirror
from k8s.routing.shares import mirrors, require_in_force, weights_of


class ValuesRouter:
    """Writes ``traffic`` of a values file.

    What it writes is done when the chart's route in the cluster says so, and every gateway has accepted that version; until then it raises
    `Unavailable`, and is asked again without the command being run again.
    """

    def __init__(self, api: Api, names: Names, file: ValuesFile) -> None:
        self._api, self._names, self._file = api, names, file
        self._in_force: str | None = None

    def read(self) -> Weights:
        """Weights of the chart's route; where there is none, everything is stable's."""
        found = self._api.get(self._names.chart_route)
        return Weights() if found is None else weights_of(found, self._names)

    def write(self, weights: Weights) -> None:
        """Write all weights in one change."""
        if weights.more:
            raise Refused(f"{weights}: values have one canary; try one release at a time")
        said = {"stable": weights.stable, "baseline": weights.baseline, "canary": weights.canary}
        self._put({"weights": said})

    def mirror(self, pct: int, to: Copied = "canary") -> None:
        """Copy a share of the requests that go by weight."""
        if to != "canary":
            raise Refused("values copy requests to the canary alone: compare recorded requests (answers.mirror_pct = 0, --requests-file)")
        if not 0 <= pct <= 100:
            raise Refused(f"{pct} % of the requests cannot be mirrored: give 0 to 100")
        self._put({"mirror": {"enabled": True, "serviceName": "", "pct": pct} if pct else {}})

    def check_mirror(self, pct: int) -> str | None:
        """Ask the classes of the route's gateways whether they can copy requests; see `k8s.routing.features`."""
        return check_mirror(self._api, self._names.namespace, self._route()["spec"].get("parentRefs") or [], pct)

    def keeps_users(self) -> bool:
        """Whether the chart's route goes by cookies while it has weights."""
        return bool((applied_values(self._api, self._names) or {}).get("cookie"))

    def withdraw(self) -> None:
        """Take weights out of the values; that helps where no gateway has ever looked at the route, since then it sends nobody anywhere."""
        self._change({"weights": {}, "mirror": {}})
        route = self._fitting_route()
        if (route.get("status") or {}).get("parents"):
            raise Refused(
                f"a gateway does not take HTTPRoute {self._names.name}, which is the only way to stable; its status says why, and what it"
                " took before may be in force"
            )

    def rest(self) -> None:
        """Take weights and copies out of the values: the chart's own are at rest. Where they were so before, nothing is waited for."""
        self._change({"weights": {}, "mirror": {}})
        self._fitting_route()

    def _put(self, said: Values) -> None:
        """Change the values, and check that they are in force."""
        self._change(said)
        route = self._fitting_route()
        require_applied(self._api, self._names, self._file)
        require_in_force(route)
        self._in_force = self._file.mark

    def _change(self, said: Values) -> None:
        def do(values: Values) -> None:
            whole = {key: value for key, value in ((values.get("traffic") or {}) | said).items() if value}
            values.pop("traffic", None)
            if whole:
                values["traffic"] = whole

        self._file.change(do, again=False)

    def _fitting_route(self) -> Object:
        """Read the chart's route, and check that it says what the file says."""
        traffic, route = self._file.read().get("traffic") or {}, self._route()
        weights = Weights(**traffic["weights"]) if "weights" in traffic else Weights()
        copied_pct = int((traffic.get("mirror") or {}).get("pct", 0))
        found_pct = sum(int(each["requestMirror"].get("percent", 100)) for each in mirrors(route))
        if (weights_of(route, self._names), found_pct) != (weights, copied_pct):
            if self._in_force == self._file.mark:  # somebody has changed the route since: whoever applies the chart is told again
                self._in_force = None
                self._file.change(lambda values: None, again=True)
            raise Unavailable(
                f"HTTPRoute {self._names.name} does not say yet what {self._file} does: {weights}"
                + (f", {copied_pct} % copied" if copied_pct else "")
            )
        return route

    def _route(self) -> Object:
        found = self._api.get(self._names.chart_route)
        if found is None:
            raise Refused(f"there is no HTTPRoute {self._names.name}: install the chart with traffic.httpRoute.enabled=true")
        return found
